"""A step applied to the model of the stage before, and what comes out held against the plugin's contract."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from detpress.contract.registry import PLUGINS, engine_version, environment_of
from detpress.detector.model import Model, difference
from detpress.detector.network import Network
from detpress.doors import entry_named
from detpress.errors import StageError
from detpress.options import with_bundles
from detpress.recipe.file import Step
from detpress.run.making import Work
from detpress.run.workbench import StageWorkbench

NOT_REPEATABLE = "not repeatable: limited by time, which another machine or another day measures differently"


def runs_apart(step: Step) -> bool:
    """Whether the step runs in a process of its own: what other packages bring, unless the recipe says otherwise, and
    whatever has limits."""
    if step.running.isolated is not None:
        return step.running.isolated
    return step.running.limited or not entry_named(step.name, PLUGINS.group).built_in


def work_of(step: Step, seed: int, parent: Callable[[], Model], earlier: dict[str, str], apart: bool) -> Work:
    """What the step does, with what `parent` gives, in a process of its own or not. earlier: see `Application`."""
    entry = entry_named(step.name, PLUGINS.group)
    engine = f"{step.plugin.engine} {engine_version(step.plugin)}" if step.plugin.engine else None
    by: dict[str, Any] = {"distribution": f"{entry.distribution} {entry.version}", "engine": engine, "seed": seed}
    own = environment_of(step.plugin)
    versions = own.versions if own else None
    if versions:
        by["environment"] = versions
    application = Application(step, by, parent, earlier)
    return Work(step.name, application, step.running if apart else None, None if entry.built_in else entry, versions)


@dataclass(frozen=True)
class Application:
    """One step, still to be applied. It can be handed to another process where `parent` can.

    by: who applies it, for the model's history.
    earlier: the bundles of the stages before, by the names that options have for them.
    """

    step: Step
    by: dict[str, Any]
    parent: Callable[[], Model]
    earlier: dict[str, str]

    def __call__(self, workbench: StageWorkbench) -> Model:
        """Raises StageError for a model that breaks the plugin's contract, and whatever the plugin raises."""
        step = self.step
        before = self.parent()
        given = copied(before)
        config = with_bundles(step.config, self.earlier)
        workbench.architecture = before.architecture
        workbench.bundles = step.plugin.bundles(config)
        workbench.environment, workbench.memory = environment_of(step.plugin), step.running.memory
        after = step.plugin.apply(before, config, workbench)
        if difference(before, given):
            raise StageError("changed the model that it was given; its contract says a new one")
        _check_kind(before, after, step.plugin.resizes)
        if not difference(after, given):
            raise StageError("changed nothing: the model that came out is the one that went in")
        returns = step.plugin.returns or before.form
        if after.form is not returns:
            raise StageError(f"gave a {after.form} model where its contract says {returns}")
        after = replace(after, notes=(*after.notes, *workbench.notes))
        if not step.plugin.repeats(step.config):
            after = replace(after, notes=(*after.notes, NOT_REPEATABLE))
        record = {"plugin": step.name, "config": step.config.model_dump(mode="json"), **self.by}
        if after.notes:
            record["notes"] = list(after.notes)
        return replace(after, history=(*before.history, record))


def copied(model: Model) -> Model:
    """A copy that does not change with the model."""
    masks = {name: mask.clone() for name, mask in model.masks.items()}
    return replace(model, network=copy.deepcopy(model.network), masks=masks)


def _check_kind(before: Model, after: Any, resizes: bool) -> None:
    """Raises StageError for what is no model of the same classes and input size, or none that a bundle can hold.

    resizes: whether it may be of another input size.
    """
    if not isinstance(after, Model):
        raise StageError(f"gave {type(after).__name__} where its contract says a Model")
    if type(after.network) is not Network:
        raise StageError(f"gave a network of the class {type(after.network).__name__}; expected Network")
    if what := other_kind(before, after, resizes):
        given, found = (str(getattr(model.architecture, what))[:80] for model in (before, after))
        raise StageError(f"gave a model of other {what}: {found} where {given} went in")


def other_kind(before: Model, after: Model, resizes: bool) -> str | None:
    """What of the architectures may not differ between two stages, and does. resizes: whether image sizes may."""
    held = ("classes", "resize") if resizes else ("classes", "image_size", "resize")
    one, other = before.architecture, after.architecture
    return next((what for what in held if getattr(one, what) != getattr(other, what)), None)
