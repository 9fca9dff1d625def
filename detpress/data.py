"""Data sets as recipes and the command line name them."""

from pathlib import Path

from detpress.builtin import BUILTIN
from detpress.cache import cache_root
from detpress.errors import InputError, nearest
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import ensure_digits

BUILTIN_DATA = {"builtin:digits": ensure_digits}


def open_data(root: str, classes: list[str] | None = None) -> Devkit:
    """The devkit `root`: a folder, or a built-in one, which is generated into the cache when it is not there.

    classes: the names that may occur; those that the annotations name by default.
    Raises InputError as `open_devkit` does, and for an unknown built-in name.
    """
    if not root.startswith(BUILTIN):
        return open_devkit(Path(root), classes)
    if root not in BUILTIN_DATA:
        raise InputError(f"no built-in data set '{root}'; {nearest(root, BUILTIN_DATA)}")
    return open_devkit(BUILTIN_DATA[root](cache_root()), classes)
