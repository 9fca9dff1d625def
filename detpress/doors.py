"""Doors: entry-point groups by which built-in things and those of other packages come in alike.

Nothing is imported until it is asked for, and what cannot be imported disturbs nothing else.
"""

from collections.abc import Iterable
from functools import cache
from importlib import metadata
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, entry_points
from typing import Any

from detpress.errors import InputError, NotInstalledError, cut_short, nearest, shortened


@cache
def version(distribution: str) -> str:
    """The installed version, read once. Raises PackageNotFoundError."""
    return metadata.version(distribution)


@cache
def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    return distribution.name, distribution.version


@cache
def entries_of(group: str) -> dict[str, list[EntryPoint]]:
    """What is brought by the name it has in the group; more than one entry where packages contend."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return found


def distribution_of(name: str, group: str) -> tuple[str, str]:
    """(name, version) of the package that brings `name`."""
    distribution = entries_of(group)[name][0].dist
    return _name_and_version(distribution) if distribution else ("unknown", "unknown")


def load_class(name: str, group: str, kind: Any) -> Any:
    """The class called `name` in the group, a subclass of `kind`.

    Raises InputError for a name that is given twice or no such class, NotInstalledError for one that is unknown or
    cannot be imported.
    """
    word, found = _word(group), entries_of(group)
    if name not in found:
        raise NotInstalledError(f"unknown {word} {shortened(name)}; {_guess(name, found)}")
    entries = found[name]
    if len(entries) > 1:
        rivals = " and ".join(entry.dist.name if entry.dist else "?" for entry in entries)
        raise InputError(f"{word} '{name}' is brought by {rivals}; uninstall one of them")
    try:
        loaded = entries[0].load()
    except Exception as error:  # a stranger's module may raise anything
        package = distribution_of(name, group)[0]
        raise NotInstalledError(f"{word} '{name}' ({package}) cannot be imported: {error!r}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, kind)):
        package = distribution_of(name, group)[0]
        raise InputError(f"{word} '{name}' ({package}): {entries[0].value} is no detpress {kind.__name__}")
    return loaded


def classes_of(group: str, kind: Any) -> dict[str, Any]:
    """The group's classes by their names, without those that `load_class` refuses."""
    found = {}
    for name in entries_of(group):
        try:
            found[name] = load_class(name, group, kind)
        except InputError:  # said by `load_class` to whoever wants that one
            continue
    return found


@cache
def name_of(loaded: type, group: str, kind: Any) -> str:
    """The name by which files have the class. Raises InputError for one that no package brings by a name."""
    for name, known in classes_of(group, kind).items():
        if known is loaded:
            return name
    raise InputError(
        f"the {_word(group)} {loaded.__module__}.{loaded.__qualname__} could not be read again: "
        f"expected an entry point of {group} for it"
    )


def entry_of(loaded: type, group: str, kind: Any) -> dict[str, str]:
    """What a file has of the class: its name and the package that brings it, if that is not detpress.

    Raises InputError as `name_of` does.
    """
    name = name_of(loaded, group, kind)
    package, number = distribution_of(name, group)
    return {"type": name} if package == "detpress" else {"type": name, "package": f"{package} {number}"}


def class_of_entry(where: str, entry: Any, group: str, kind: Any) -> tuple[Any, dict[str, Any]]:
    """The class that a file's entry names, and the options in it.

    The entry's `package` only says what to install where nothing brings the name; otherwise it decides nothing.
    Raises InputError, beginning with `where`, as `load_class` does, and for what is no entry.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise InputError(f"{where}: expected an object with a type, got {shortened(entry)}")
    options = dict(entry)
    name, package = options.pop("type"), options.pop("package", None)
    if name not in entries_of(group) and package is not None:
        raise NotInstalledError(
            f"{where}: the {_word(group)} {shortened(name)} is not installed here; install {cut_short(str(package))}"
        )
    try:
        return load_class(name, group, kind), options
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error


def _word(group: str) -> str:
    """What one of the group is called: `layer` of `detpress.layers`."""
    return group.rpartition(".")[2].removesuffix("s")


def _guess(name: str, found: Iterable[str]) -> str:
    """The end of the message for an unknown name: the nearest of the same prefix. What an engine calls its pruner is
    no misspelling of another engine's, so a prefix that nobody brings is a package that is not there."""
    prefix, dot, _ = name.partition(".")
    same = [known for known in found if known.startswith(f"{prefix}.")]
    if dot and not same:
        return f"nothing that is installed brings '{prefix}.*': is the package that does installed here?"
    return nearest(name, same or found)


def installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
