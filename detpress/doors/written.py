"""How files name classes: `{"type": "mine.gain", "package": "my-package 0.1", ...options}`."""

import sys
from functools import cache
from typing import Any

from detpress.doors.classes import classes_of, load_class
from detpress.doors.door import Door
from detpress.doors.entries import entries_of, is_brought, word
from detpress.errors import InputError, NotInstalledError, cut_short, own_kind, shortened


@cache
def name_of(loaded: type, door: Door) -> str:
    """The name by which files have the class. Raises InputError for one that no package brings by a name."""
    entries = entries_of(door.group)
    for name, entry in entries.items():  # nothing is imported: the class is there, and so is its module
        if getattr(sys.modules.get(entry.module), entry.value.partition(":")[2].strip(), None) is loaded:
            return name
    for name, known in classes_of(door).items():  # a module may bring what it has from another one
        if known is loaded:
            return name
    raise InputError(
        f"the {word(door.group)} {loaded.__module__}.{loaded.__qualname__} could not be read again: "
        f"expected an entry point of {door.group} for it"
    )


def entry_of(loaded: type, door: Door) -> dict[str, str]:
    """What a file has of the class: its name and the package that brings it, if that is not detpress.

    Raises InputError as `name_of` does.
    """
    entry = entries_of(door.group)[name_of(loaded, door)]
    if entry.built_in:
        return {"type": entry.plain}
    return {"type": entry.plain, "package": f"{entry.distribution} {entry.version}"}


def class_of_entry(where: str, entry: Any, door: Door) -> tuple[Any, dict[str, Any]]:
    """The class that a file's entry names, and the options in it.

    The entry's `package` tells apart those that bring the same name, and says what to install where nothing brings it.
    Raises InputError, beginning with `where`, as `load_class` does, and for what is no entry.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise InputError(f"{where}: expected an object with a type, got {shortened(entry)}")
    options = dict(entry)
    name, package = options.pop("type"), options.pop("package", None)
    try:
        return load_class(_told_apart(name, package, door), door), options
    except InputError as error:
        raise own_kind(error)(f"{where}: {error}") from error


def _told_apart(name: str, package: Any, door: Door) -> str:
    """The name by which the package, `my-package 0.1`, brings what a file calls `name`.

    Raises NotInstalledError where nobody brings the name.
    """
    if not isinstance(package, str):
        return name
    theirs = f"{package.rpartition(' ')[0]}:{name}"
    if is_brought(theirs, door.group):
        return theirs
    if not is_brought(name, door.group):
        raise NotInstalledError(
            f"the {word(door.group)} {shortened(name)} is not installed here; install {cut_short(package)}"
        )
    return name
