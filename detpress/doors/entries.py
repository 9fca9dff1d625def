"""Which installed distribution brings what by which name. Nothing of theirs is imported here.

A name that two distributions bring is told apart by the one that brings it:

    nni.l1norm          detpress's own, whoever else brings the name
    stranger:nni.l1norm that of the distribution `stranger`
    mine.round          refused where `one` and `two` bring it: `one:mine.round` or `two:mine.round` is meant
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.metadata import Distribution, PackageNotFoundError, entry_points

from packaging.utils import canonicalize_name

from detpress.errors import InputError, NotInstalledError, nearest, shortened

BUILT_IN = "detpress"
UNKNOWN = "unknown"  # the distribution of an entry whose metadata do not tell


@dataclass(frozen=True)
class Entry:
    """What a distribution brings by a name.

    name: by which recipes and files have it: `plain`, or `distribution:plain` where that is another's, too.
    value: `module:class`.
    """

    group: str
    name: str
    plain: str
    value: str
    distribution: str
    version: str

    @property
    def built_in(self) -> bool:
        return self.distribution == BUILT_IN

    @property
    def module(self) -> str:
        return self.value.partition(":")[0].strip()

    def __str__(self) -> str:
        return f"{word(self.group)} '{self.name}' ({self.distribution} {self.version})"


@cache
def version(distribution: str) -> str:
    """The installed version, read once. Raises PackageNotFoundError."""
    return metadata.version(distribution)


def installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def _name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    if distribution is None:
        return UNKNOWN, UNKNOWN
    known = distribution.metadata
    return known["Name"] or UNKNOWN, known["Version"] or UNKNOWN


@cache
def entries_of(group: str) -> dict[str, Entry]:
    """What is brought in the group, by the names that tell it apart."""
    brought: dict[str, dict[str, str]] = {}  # plain name -> distribution -> value
    versions = {}
    for entry in entry_points(group=group):
        distribution, number = _name_and_version(entry.dist)
        versions[distribution] = number
        brought.setdefault(entry.name, {}).setdefault(distribution, entry.value)
    found = {}
    for plain, by in brought.items():
        for distribution, value in by.items():
            alone = distribution == BUILT_IN or len(by) == 1
            name = plain if alone else f"{distribution}:{plain}"
            found[name] = Entry(group, name, plain, value, distribution, versions[distribution])
    return found


def entry_named(name: str, group: str) -> Entry:
    """What is brought by the name, which may say by whom (`distribution:name`) also where that is the only one.

    Raises NotInstalledError for a name that nobody brings, InputError for one that several do, detpress not among them.
    """
    found = entries_of(group)
    if name in found:
        return found[name]
    told_apart = {f"{canonicalize_name(entry.distribution)}:{entry.plain}": entry for entry in found.values()}
    distribution, _, plain = name.partition(":")
    if entry := told_apart.get(f"{canonicalize_name(distribution)}:{plain}"):
        return entry
    if rivals := sorted(entry.name for entry in found.values() if entry.plain == name):
        packages = " and ".join(rival.partition(":")[0] for rival in rivals)
        raise InputError(f"{word(group)} '{name}' is brought by {packages}; expected {' or '.join(rivals)}")
    raise NotInstalledError(f"unknown {word(group)} {shortened(name)}; {_guess(name, found)}")


def is_brought(name: str, group: str) -> bool:
    """Whether the name, or `distribution:name`, stands for something, be it of several packages."""
    try:
        entry_named(name, group)
    except NotInstalledError:
        return False
    except InputError:
        return True
    return True


def distribution_of(name: str, group: str) -> tuple[str, str]:
    """(name, version) of the package that brings `name`. Raises InputError as `entry_named` does."""
    entry = entry_named(name, group)
    return entry.distribution, entry.version


def word(group: str) -> str:
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
