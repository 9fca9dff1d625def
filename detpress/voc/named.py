"""Data sets as recipes and the command line name them."""

from pathlib import Path

from detpress.builtin import BUILTIN, check_data_set
from detpress.cache import cache_root
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import digits_root, ensure_digits


def open_data(root: str, classes: list[str] | None = None) -> Devkit:
    """The devkit `root`: a folder, or a built-in one, which is generated into the cache when it is not there.

    classes: the names that may occur; those that the annotations name by default.
    Raises InputError as `open_devkit` does, and for an unknown built-in name.
    """
    if not root.startswith(BUILTIN):
        return open_devkit(Path(root), classes)
    check_data_set(root)
    return open_devkit(ensure_digits(cache_root()), classes)


def open_data_if_there(root: str, classes: list[str] | None = None) -> Devkit | None:
    """As `open_data`, but None for a folder that does not exist and for built-in data not generated yet."""
    if not (digits_root(cache_root()) if root.startswith(BUILTIN) else Path(root)).is_dir():
        return None
    return open_data(root, classes)
