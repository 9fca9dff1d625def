"""Finds plugins by the entry-point group `detpress.plugins`; the built-in ones come by the same door.

Nothing is imported until it is asked for, and a plugin that cannot be imported is listed as broken with its reason
and disturbs no other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Literal

from detpress.errors import InputError, nearest
from detpress.plugin import Plugin

GROUP = "detpress.plugins"


@dataclass(frozen=True)
class Listing:
    """What is known of one plugin without running it; the row that `detpress plugins` prints.

    status: `working`; `unavailable`, when its engine is not installed or cannot do it (`Plugin.unavailable`); `broken`,
        when it cannot be imported.
    """

    name: str
    status: Literal["working", "unavailable", "broken"]
    reason: str | None
    accepts: tuple[str, ...]
    returns: str | None  # None: the form that came in
    engine: str | None
    engine_version: str | None
    distribution: str


@cache
def _found() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def plugin_names() -> list[str]:
    return sorted(_found())


def distribution_of(name: str) -> tuple[str, str]:
    """(name, version) of the package that brings the plugin `name`."""
    distribution = _found()[name][0].dist
    return (distribution.name, distribution.version) if distribution else ("unknown", "unknown")


def load_plugin(name: str) -> Plugin:
    """An instance of the plugin. Raises InputError for a name that is unknown, given twice, or broken."""
    if name not in _found():
        raise InputError(f"unknown plugin '{name}'; {nearest(name, plugin_names())}")
    entries = _found()[name]
    if len(entries) > 1:
        rivals = " and ".join(entry.dist.name if entry.dist else "?" for entry in entries)
        raise InputError(f"plugin '{name}' is brought by {rivals}; uninstall one of them")
    try:
        loaded = entries[0].load()
    except Exception as error:  # a stranger's module may raise anything
        raise InputError(f"plugin '{name}' ({distribution_of(name)[0]}) cannot be imported: {error!r}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Plugin)):
        raise InputError(f"plugin '{name}' ({distribution_of(name)[0]}): {entries[0].value} is no detpress Plugin")
    return loaded()


def engine_version(plugin: Plugin) -> str | None:
    """The installed version of the plugin's engine; None when it has none or it is not installed."""
    if plugin.engine is None:
        return None
    try:
        return version(plugin.engine)
    except PackageNotFoundError:
        return None


def why_unavailable(plugin: Plugin) -> str | None:
    """Why the plugin cannot run here; None where it can."""
    if plugin.unavailable:
        return plugin.unavailable
    missing = plugin.engine is not None and engine_version(plugin) is None
    return f"needs the package {plugin.engine}" if missing else None


def list_plugins(names: Iterable[str] | None = None) -> list[Listing]:
    """One row a plugin, in the order of the names. Raises InputError for an unknown name."""
    return [_listing(name) for name in (plugin_names() if names is None else names)]


def _listing(name: str) -> Listing:
    if name not in _found():
        load_plugin(name)
    distribution = " ".join(distribution_of(name))
    try:
        plugin = load_plugin(name)
    except InputError as error:
        return Listing(name, "broken", str(error), (), None, None, None, distribution)
    reason = why_unavailable(plugin)
    return Listing(
        name,
        "unavailable" if reason else "working",
        reason,
        tuple(sorted(plugin.accepts)),
        plugin.returns,
        plugin.engine,
        engine_version(plugin),
        distribution,
    )
