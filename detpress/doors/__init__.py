"""Doors: entry-point groups by which built-in things and those of other packages come in alike."""

from detpress.doors.classes import classes_of, contained, findings, load_class
from detpress.doors.door import API_VERSION, Door
from detpress.doors.entries import Entry, distribution_of, entries_of, entry_named, installed_version, version
from detpress.doors.examined import Finding
from detpress.doors.written import class_of_entry, entry_of, name_of

__all__ = [
    "API_VERSION",
    "Door",
    "Entry",
    "Finding",
    "class_of_entry",
    "classes_of",
    "contained",
    "distribution_of",
    "entries_of",
    "entry_named",
    "entry_of",
    "findings",
    "installed_version",
    "load_class",
    "name_of",
    "version",
]
