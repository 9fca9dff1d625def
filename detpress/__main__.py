"""`python -m detpress` is the command `detpress`."""

from detpress.cli import main

main()
