"""The classes that come by a door: loaded one by one, or listed with what is known of them.

Nothing is imported until it is asked for, and what cannot be imported disturbs nothing else. What detpress brings
itself is imported here at once; what others bring is examined in a process of its own before it is imported into this.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from detpress.doors.broken import place_of, sentence, words_of
from detpress.doors.door import Door, imported
from detpress.doors.entries import Entry, entries_of, entry_named
from detpress.doors.examination import WITHIN
from detpress.doors.examined import Finding, examine
from detpress.engine_log import standard_output_into
from detpress.errors import InputError, NotInstalledError


def load_class(name: str, door: Door) -> Any:
    """The class that comes by the name.

    Raises InputError for a name that several packages bring, NotInstalledError for one that is unknown or whose class
    cannot be used.
    """
    entry = entry_named(name, door.group)
    if not entry.built_in and WITHIN not in os.environ:
        [finding] = examine([entry], door)
        if finding.failure:
            raise NotInstalledError(finding.failure)
    with contained(entry):
        return imported(entry, door)


@contextmanager
def contained(entry: Entry) -> Iterator[None]:
    """Whatever a package raises meanwhile becomes a NotInstalledError of one line; it prints nothing on the standard
    output."""
    try:
        with nullcontext() if entry.built_in else standard_output_into(2):
            yield
    except (Exception, SystemExit) as error:
        raise NotInstalledError(sentence(entry, words_of(error), place_of(error, entry))) from error


def classes_of(door: Door) -> dict[str, Any]:
    """All classes by their names, without those that `load_class` refuses."""
    found = {}
    for finding in findings(door):
        try:
            found[finding.entry.name] = load_class(finding.entry.name, door)
        except InputError:  # said by `load_class` to whoever wants that one
            continue
    return found


def findings(door: Door, names: Iterable[str] | None = None) -> list[Finding]:
    """What is known of the classes called so, all by default, in the order of their names.

    Raises InputError for a name that is unknown or that several packages bring.
    """
    entries = list(entries_of(door.group).values()) if names is None else [entry_named(n, door.group) for n in names]
    entries.sort(key=lambda entry: entry.name)
    of_others = {found.entry: found for found in examine([each for each in entries if not each.built_in], door)}
    return [_looked_at(entry, door) if entry.built_in else of_others[entry] for entry in entries]


def _looked_at(entry: Entry, door: Door) -> Finding:
    """The finding of a class of detpress."""
    try:
        with contained(entry):
            return Finding(entry, door.facts(imported(entry, door)))
    except InputError as error:
        return Finding(entry, {}, str(error))
