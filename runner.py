"""`python runner.py ARGUMENTS` is the command `detpress ARGUMENTS`."""

import sys
from pathlib import Path

# Python looks into this folder first, and here `detpress` lies apart from its plugins, adapters and recipes.
sys.path = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent]

from detpress.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
