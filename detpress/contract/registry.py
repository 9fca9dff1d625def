"""Finds plugins by the entry-point group `detpress.plugins`; the built-in ones come by the same door.

Tuners and assessors (`detpress.contract.tuner`) come by doors of the same kind, `detpress.tuners` and
`detpress.assessors`. Nothing is imported until it is asked for, and what cannot be used is listed as broken with its
reason and disturbs nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from detpress.contract.plugin import Plugin
from detpress.contract.tuner import Assessor, Tuner
from detpress.detector.form import Form
from detpress.doors import Door, Finding, contained, entries_of, entry_named, findings, installed_version, load_class
from detpress.doors.card import card
from detpress.environments import Environment, requirement
from detpress.errors import InputError
from detpress.options import Options

SLOW = 1.0  # seconds: who takes longer to be imported makes every command that uses it wait

Status = Literal["working", "unavailable", "broken"]


def plugin_facts(kind: type[Plugin]) -> dict[str, Any]:
    """What is known of a plugin without running it. Raises InputError for one that lacks something."""
    plugin = _made(kind)
    return {
        "accepts": sorted(plugin.accepts),
        "returns": plugin.returns,
        **_needs(plugin),
        "documented": bool(kind.__doc__),
        "card": card(plugin),
    }


def chooser_facts(kind: type[Tuner] | type[Assessor]) -> dict[str, Any]:
    """What is known of a tuner or an assessor without running it."""
    chooser = _made(kind)
    return {**_needs(chooser), "documented": bool(kind.__doc__), "card": card(chooser)}


PLUGINS = Door("detpress.plugins", "detpress.contract.plugin:Plugin", plugin_facts)
TUNERS = Door("detpress.tuners", "detpress.contract.tuner:Tuner", chooser_facts)
ASSESSORS = Door("detpress.assessors", "detpress.contract.tuner:Assessor", chooser_facts)


@dataclass(frozen=True)
class Listing:
    """What is known of one plugin without running it; the row that `detpress plugins` prints.

    status: `working`; `unavailable`, when its engine is not installed or cannot do it (`Plugin.unavailable`); `broken`,
        when it cannot be used.
    environment: the folder of its engine's own one, where its `requirements` are installed.
    remark: what its author should know, such as that it is slow to import.
    """

    name: str
    status: Status
    reason: str | None
    requirements: tuple[str, ...]
    accepts: tuple[str, ...]
    returns: str | None  # None: the form that came in
    engine: str | None
    engine_version: str | None
    distribution: str
    remark: str | None
    card: str
    environment: str | None = None


def plugin_names() -> list[str]:
    return sorted(entries_of(PLUGINS.group))


def load_plugin(name: str) -> Plugin:
    """An instance of the plugin. Raises InputError for a name that is unknown, given twice, or broken."""
    plugin: Plugin = _load(name, PLUGINS)
    return plugin


def load_tuner(name: str) -> Tuner:
    """An instance of the tuner. Raises InputError as `load_plugin` does."""
    tuner: Tuner = _load(name, TUNERS)
    return tuner


def load_assessor(name: str) -> Assessor:
    """An instance of the assessor. Raises InputError as `load_plugin` does."""
    assessor: Assessor = _load(name, ASSESSORS)
    return assessor


def _load(name: str, door: Door) -> Any:
    kind = load_class(name, door)
    with contained(entry_named(name, door.group)):
        return _made(kind)


def _made(kind: Any) -> Any:
    """An object of the class. Raises InputError for one that lacks something beside its methods, without which there is
    none."""
    made = kind()
    config = getattr(made, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Options)):
        raise InputError("its `Config` is no subclass of detpress.api.Options")
    for name in ("engine", "unavailable"):
        if not isinstance(getattr(made, name), str | None):
            raise InputError(f"its `{name}` is neither text nor None")
    if isinstance(made, Plugin):
        _check_plugin(made)
    elif not (made.extra is None or [type(part) for part in made.extra] == [str, str]):
        raise InputError("its `extra` is neither two names nor None")
    return made


def _check_plugin(plugin: Plugin) -> None:
    accepts, returns = (getattr(plugin, name, "missing") for name in ("accepts", "returns"))
    if not (isinstance(accepts, frozenset) and accepts and all(isinstance(form, Form) for form in accepts)):
        raise InputError("its `accepts` is no frozenset of detpress.api.Form")
    if not (returns is None or isinstance(returns, Form)):
        raise InputError("its `returns` is neither a detpress.api.Form nor None")
    if not isinstance(plugin.version, int):
        raise InputError("its `version` is no whole number")
    if not (isinstance(plugin.requirements, tuple) and all(isinstance(each, str) for each in plugin.requirements)):
        raise InputError("its `requirements` are no tuple of texts")
    for text in plugin.requirements:
        try:
            requirement(text)
        except InputError as error:
            raise InputError(f"its `requirements`: {error}") from error


def engine_version(plugin: Plugin) -> str | None:
    """The installed version of the plugin's engine; None when it has none or it is not installed."""
    return installed_version(plugin.engine) if plugin.engine else None


def environment_of(plugin: Plugin) -> Environment | None:
    """The one that the plugin's engine has for itself, if any; it may not be there yet."""
    return Environment(plugin.requirements) if plugin.requirements else None


def why_unavailable(user: Plugin | Tuner | Assessor, name: str) -> str | None:
    """Why the plugin, tuner or assessor of this name cannot run here; None where it can."""
    return _why_unavailable(name, **_needs(user))


def _needs(user: Plugin | Tuner | Assessor) -> dict[str, Any]:
    extra = user.extra if isinstance(user, Tuner | Assessor) else None
    requirements = list(user.requirements) if isinstance(user, Plugin) else []
    return {"unavailable": user.unavailable, "engine": user.engine, "extra": extra, "requirements": requirements}


def _why_unavailable(
    name: str, unavailable: str | None, engine: str | None, extra: tuple[str, str] | None, requirements: Sequence[str]
) -> str | None:
    if unavailable:
        return unavailable
    if engine and installed_version(engine) is None:
        return f"needs the package {engine}"
    if extra and installed_version(extra[0]) is None:
        return f"needs the package {extra[0]}, which the extra `{extra[1]}` brings"
    if requirements and not Environment(tuple(requirements)).is_made:
        wanted = ", ".join(requirements)
        return f"the environment of its engine is not installed ({wanted}): detpress plugins install {name}"
    return None


@dataclass(frozen=True)
class ChooserListing:
    """What is known of a tuner or an assessor without running it; the row that `detpress tuners` prints."""

    name: str
    kind: Literal["tuner", "assessor"]
    status: Status
    reason: str | None
    engine: str | None
    engine_version: str | None
    distribution: str
    remark: str | None
    card: str


def list_choosers() -> list[ChooserListing]:
    """The tuners, then the assessors, each in the order of their names."""
    tuners = [ChooserListing(kind="tuner", **_known(finding)) for finding in findings(TUNERS)]
    return tuners + [ChooserListing(kind="assessor", **_known(finding)) for finding in findings(ASSESSORS)]


def list_plugins(names: Iterable[str] | None = None) -> list[Listing]:
    """One row a plugin, in the order of the names. Raises InputError for an unknown name."""
    rows = []
    for finding in findings(PLUGINS, names):
        facts, known = finding.facts, _known(finding)
        requirements = tuple(facts.get("requirements", ()))
        if requirements and (environment := Environment(requirements)).is_made:
            known["environment"] = str(environment.folder)
            known["remark"] = "; ".join(filter(None, (known["remark"], f"its engine: {environment}")))
        rows.append(
            Listing(
                requirements=requirements,
                accepts=tuple(facts.get("accepts", ())),
                returns=facts.get("returns"),
                **known,
            )
        )
    return rows


def _known(finding: Finding) -> dict[str, Any]:
    """What a row says of a plugin, a tuner or an assessor alike."""
    entry, facts = finding.entry, finding.facts
    engine = facts.get("engine")
    needs: dict[str, Any] = {name: facts.get(name) for name in ("unavailable", "engine", "extra", "requirements")}
    reason = finding.failure or _why_unavailable(entry.name, **needs)
    return {
        "name": entry.name,
        "status": "broken" if finding.failure else "unavailable" if reason else "working",
        "reason": reason or None,
        "engine": engine,
        "engine_version": installed_version(engine) if engine else None,
        "distribution": f"{entry.distribution} {entry.version}",
        "remark": "; ".join(_remarks(finding)) or None,
        "card": facts.get("card", ""),
    }


def _remarks(finding: Finding) -> Iterable[str]:
    entry = finding.entry
    if entry.name != entry.plain:
        others = [each.distribution for each in entries_of(entry.group).values() if each.plain == entry.plain]
        yield f"'{entry.plain}' is also brought by {', '.join(sorted({*others} - {entry.distribution}))}"
    if finding.seconds > SLOW:
        yield f"takes {finding.seconds:.1f} s to import: import torch and engines inside its methods"
    if finding.facts and not finding.facts["documented"]:
        yield "has no docstring, which would be its card"
