"""A door: an entry-point group by which built-in things and those of other packages come in alike."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

from detpress.doors.entries import Entry
from detpress.errors import InputError
from detpress.files.folders import FOLDER_NAME

API_VERSION = 1  # of `detpress.api`; raised when a name goes, or what it stands for is used in another way


@dataclass(frozen=True)
class Door:
    """group: of the entry points. kind: `module:class`, of which all that comes in is a subclass.

    facts: what is known of a class without running it, as plain data: `card`, its text, and what a listing shows.
        Raises InputError for a class that lacks something.
    """

    group: str
    kind: str
    facts: Callable[[Any], dict[str, Any]]


def named(reference: str) -> Any:
    """What is called `module:name`, imported now."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def imported(entry: Entry, door: Door) -> Any:
    """The class that is brought, imported in this process. Raises InputError for one that is not what the door takes;
    of others' packages, whatever their modules raise."""
    loaded = EntryPoint(entry.plain, entry.value, entry.group).load()
    kind = named(door.kind)
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        raise InputError(f"{entry.value} is no detpress {kind.__name__}")
    if not re.fullmatch(FOLDER_NAME, entry.plain):
        raise InputError(
            "nothing can be called so: expected up to 100 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    made_for = getattr(loaded, "api", API_VERSION)
    if type(made_for) is not int:
        raise InputError("its `api` is no whole number")
    if made_for != API_VERSION:
        raise InputError(
            f"it is made for version {made_for} of detpress.api, which here has version {API_VERSION}; "
            f"install a version of {entry.distribution} that is made for this one"
        )
    return loaded
