"""`python runner.py ARGUMENTS` is the command `detpress ARGUMENTS`."""

from detpress.cli import main

if __name__ == "__main__":
    main()
