"""Finds plugins by the entry-point group `detpress.plugins`; the built-in ones come by the same door.

Tuners and assessors (`detpress.contract.tuner`) come by doors of the same kind, `detpress.tuners` and
`detpress.assessors`. Nothing is imported until it is asked for, and a plugin that cannot be imported is listed as
broken with its reason and disturbs no other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from detpress.contract.plugin import Plugin
from detpress.contract.tuner import Assessor, Tuner
from detpress.detector.form import Form
from detpress.doors import distribution_of, entries_of, installed_version, load_class
from detpress.errors import InputError
from detpress.options import Options

PLUGINS = "detpress.plugins"
TUNERS = "detpress.tuners"
ASSESSORS = "detpress.assessors"


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


def plugin_names() -> list[str]:
    return sorted(entries_of(PLUGINS))


def load_plugin(name: str) -> Plugin:
    """An instance of the plugin. Raises InputError for a name that is unknown, given twice, or broken."""
    loaded: Plugin = load_class(name, PLUGINS, Plugin)()
    if mistake := _mistake(loaded):
        raise InputError(f"plugin '{name}' ({distribution_of(name, PLUGINS)[0]}): {mistake}")
    return loaded


def _mistake(plugin: Plugin) -> str | None:
    """What a class that is to be a plugin lacks, beside `apply`, without which there is no object of it."""
    config, accepts, returns = (getattr(plugin, name, None) for name in ("Config", "accepts", "returns"))
    if not (isinstance(config, type) and issubclass(config, Options)):
        return "its `Config` is no subclass of detpress.api.Options"
    if not (isinstance(accepts, frozenset) and accepts and all(isinstance(form, Form) for form in accepts)):
        return "its `accepts` is no frozenset of detpress.api.Form"
    if not hasattr(plugin, "returns") or not (returns is None or isinstance(returns, Form)):
        return "its `returns` is neither a detpress.api.Form nor None"
    return None


def load_tuner(name: str) -> Tuner:
    """An instance of the tuner. Raises InputError as `load_plugin` does."""
    loaded: Tuner = load_class(name, TUNERS, Tuner)()
    return loaded


def load_assessor(name: str) -> Assessor:
    """An instance of the assessor. Raises InputError as `load_plugin` does."""
    loaded: Assessor = load_class(name, ASSESSORS, Assessor)()
    return loaded


def engine_version(plugin: Plugin) -> str | None:
    """The installed version of the plugin's engine; None when it has none or it is not installed."""
    return installed_version(plugin.engine) if plugin.engine else None


def why_unavailable(user: Plugin | Tuner | Assessor) -> str | None:
    """Why the plugin, tuner or assessor cannot run here; None where it can."""
    if user.unavailable:
        return user.unavailable
    if user.engine and installed_version(user.engine) is None:
        return f"needs the package {user.engine}"
    if isinstance(user, Tuner | Assessor) and user.extra and installed_version(user.extra[0]) is None:
        return f"needs the package {user.extra[0]}, which the extra `{user.extra[1]}` brings"
    return None


@dataclass(frozen=True)
class ChooserListing:
    """What is known of a tuner or an assessor without running it; the row that `detpress tuners` prints."""

    name: str
    kind: Literal["tuner", "assessor"]
    status: Literal["working", "unavailable", "broken"]
    reason: str | None
    engine: str | None
    engine_version: str | None
    distribution: str


def list_choosers() -> list[ChooserListing]:
    """The tuners, then the assessors, each in the order of their names."""
    return [_chooser(name, TUNERS, Tuner) for name in sorted(entries_of(TUNERS))] + [
        _chooser(name, ASSESSORS, Assessor) for name in sorted(entries_of(ASSESSORS))
    ]


def _chooser(name: str, group: str, kind: type[Tuner] | type[Assessor]) -> ChooserListing:
    word: Any = kind.__name__.lower()
    distribution = " ".join(distribution_of(name, group))
    try:
        loaded: Tuner | Assessor = load_class(name, group, kind)()
    except InputError as error:
        return ChooserListing(name, word, "broken", str(error), None, None, distribution)
    reason = why_unavailable(loaded)
    installed = installed_version(loaded.engine) if loaded.engine else None
    return ChooserListing(
        name, word, "unavailable" if reason else "working", reason, loaded.engine, installed, distribution
    )


def list_plugins(names: Iterable[str] | None = None) -> list[Listing]:
    """One row a plugin, in the order of the names. Raises InputError for an unknown name."""
    return [_listing(name) for name in (plugin_names() if names is None else names)]


def _listing(name: str) -> Listing:
    if name not in entries_of(PLUGINS):
        load_plugin(name)
    distribution = " ".join(distribution_of(name, PLUGINS))
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
