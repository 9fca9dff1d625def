"""Runs a recipe's chain, stage after stage.

    model ──> nni.l1norm ──> nni.speedup ──> train.finetune ──> inc.static_int8
    key 0      key 1            key 2          key 3              key 4

A stage's key (detpress/run/keys.py) names all that decides its result, its parent's key among it. A stage whose key
is in the store is not made again, whichever recipe made it.
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detpress.contract.registry import PLUGINS, engine_version
from detpress.detector.architecture import Architecture
from detpress.detector.encoding import Encoding
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.doors import distribution_of, version
from detpress.errors import InputError, StageError
from detpress.files.folders import write_atomically
from detpress.measure.scoring import protocol_id
from detpress.options import STAGE, with_bundles
from detpress.recipe.file import Recipe, Step
from detpress.run.initial_model import initial_model
from detpress.run.keys import chain_keys
from detpress.run.remarks import remarks
from detpress.run.run_folder import exchange_stages
from detpress.run.stage import Listener, Stage, StageMaker, find_stage, measurement_digest, torch_as_it_was
from detpress.run.store import Store
from detpress.run.workbench import StageWorkbench
from detpress.voc.devkit import Devkit

NOT_REPEATABLE = "not repeatable: limited by time, which another machine or another day measures differently"


def run_chain(
    recipe: Recipe,
    devkit: Devkit,
    store: Store,
    listener: Listener,
    split: str | None = None,
    only_ends: bool = False,
    fresh: bool = False,
) -> Iterator[Stage]:
    """The stages one by one, each yielded as soon as it is measured; the first is the model before any plugin.

    split: the image set that they are scored on, the recipe's test set by default.
    only_ends: the stages between the first and the last are made, but neither measured nor yielded.
    fresh: all are made anew, those that the store has, too.
    Raises InputError or StageError at the first stage that cannot be had; those before stay in the store.
    """
    chain = Chain(recipe, devkit, store, listener, split)
    total = len(chain.keys)
    parent = None
    if fresh:
        for key in chain.keys:
            store.remove(key)
    with store.in_use(chain.keys):
        for index, name in enumerate(chain.names):
            listener.begin(index, total, name)
            if only_ends and 0 < index < total - 1:
                chain.made(index)
                continue
            stage = chain.stage(index)
            yield stage
            if parent is not None:
                check_map_loss(recipe, parent, stage)
            parent = stage


class Chain:
    """A recipe's stages, the model before any plugin the first, each to be had by its index.

    Raises InputError for a recipe whose numbers are still searched.
    """

    def __init__(
        self, recipe: Recipe, devkit: Devkit, store: Store, listener: Listener, split: str | None = None
    ) -> None:
        if recipe.search is not None:
            raise InputError(f"{recipe.path}: numbers of its chain are searched: it is no single chain to run")
        self.recipe, self.store = recipe, store
        self.model = initial_model(recipe, devkit)
        self.keys = chain_keys(recipe, devkit, self.model)
        self.names = stage_names(recipe)
        self.maker = StageMaker(recipe, devkit, self.model.architecture, store, listener, split or recipe.data.test)

    def stage(self, index: int) -> Stage:
        """Stage `index`, made if need be, and measured; the one before must be in the store.

        Raises InputError or StageError where it cannot be had.
        """
        return self.maker.stage(index, self.names[index], self.keys[index], self._make(index))

    def made(self, index: int) -> None:
        """Has stage `index` made, but not measured. Raises as `stage` does."""
        self.maker.made(self.names[index], self.keys[index], self._make(index))

    def _make(self, index: int) -> Callable[[StageWorkbench], Model]:
        if index == 0:
            return lambda workbench: self.model
        step, parent = self.recipe.chain[index - 1], self.keys[index - 1]
        earlier = {f"{STAGE}{i}": str(self.store.stage(key) / "bundle") for i, key in enumerate(self.keys[:index])}
        return _Application(step, self.recipe.seed, lambda: self.maker.take_model(parent), earlier)


def stage_names(recipe: Recipe) -> list[str]:
    """`model`, and the plugins of the chain."""
    return ["model", *(step.name for step in recipe.chain)]


def find_chain(recipe: Recipe, keys: Sequence[str], devkit: Devkit, store: Store) -> list[Stage]:
    """The stages that are in the store, made and measured, from the first up to the first that is not."""
    digest_of_measurement = measurement_digest(recipe, devkit, recipe.data.test)
    found: list[Stage] = []
    for index, (name, key) in enumerate(zip(stage_names(recipe), keys, strict=True)):
        stage = find_stage(index, name, key, digest_of_measurement, store)
        if stage is None:
            break
        found.append(stage)
    return found


class _Application:
    """Applies one step to the model of the stage before."""

    def __init__(self, step: Step, seed: int, parent: Callable[[], Model], earlier: Mapping[str, str]) -> None:
        """earlier: the bundles of the stages before, by the names that options have for them."""
        self.step, self.seed, self.parent, self.earlier = step, seed, parent, earlier

    def __call__(self, workbench: StageWorkbench) -> Model:
        step = self.step
        before = self.parent()
        given = _State.of(before).kept()
        config = with_bundles(step.config, self.earlier)
        workbench.bundles = step.plugin.bundles(config)
        with torch_as_it_was():
            after = step.plugin.apply(before, config, workbench)
        if _State.of(before) != given:
            raise StageError("changed the model that it was given; its contract says a new one")
        _check_kind(before, after, step.plugin.resizes)
        if _State.of(after) == given:
            raise StageError("changed nothing: the model that came out is the one that went in")
        returns = step.plugin.returns or before.form
        if after.form is not returns:
            raise StageError(f"gave a {after.form} model where its contract says {returns}")
        after = replace(after, notes=(*after.notes, *workbench.notes))
        if not step.plugin.repeats(step.config):
            after = replace(after, notes=(*after.notes, NOT_REPEATABLE))
        record: dict[str, Any] = {
            "plugin": step.name,
            "config": step.config.model_dump(mode="json"),
            "distribution": " ".join(distribution_of(step.name, PLUGINS.group)),
            "engine": f"{step.plugin.engine} {engine_version(step.plugin)}" if step.plugin.engine else None,
            "seed": self.seed,
        }
        if after.notes:
            record["notes"] = list(after.notes)
        return replace(after, history=(*before.history, record))


def _check_kind(before: Model, after: Any, resizes: bool) -> None:
    """Raises StageError for what is no model of the same classes and input size, or none that a bundle can hold.

    resizes: whether it may be of another input size.
    """
    if not isinstance(after, Model):
        raise StageError(f"gave {type(after).__name__} where its contract says a Model")
    if type(after.network) is not Network:
        raise StageError(f"gave a network of the class {type(after.network).__name__}; expected Network")
    for what in ("classes", "resize") if resizes else ("classes", "image_size", "resize"):
        given, found = getattr(before.architecture, what), getattr(after.architecture, what)
        if given != found:
            raise StageError(f"gave a model of other {what}: {str(found)[:80]} where {str(given)[:80]} went in")


@dataclass(frozen=True, eq=False)
class _State:
    """All that distinguishes two models: layers, encodings, and every tensor bit for bit, masks among them."""

    encodings: dict[int, Encoding]
    architecture: Architecture
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, model: Model) -> "_State":
        tensors = model.network.state_dict() | {f"mask of {name}": mask for name, mask in model.masks.items()}
        return cls(model.encodings, model.architecture, {name: tensor.cpu() for name, tensor in tensors.items()})

    def kept(self) -> "_State":
        """A copy that does not change with the model."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _State):
            return False
        if (self.encodings, self.architecture) != (other.encodings, other.architecture):
            return False
        pairs = [(self.tensors[name], other.tensors.get(name)) for name in self.tensors]
        same_names = self.tensors.keys() == other.tensors.keys()
        return same_names and all(there is not None and torch.equal(here, there) for here, there in pairs)


def check_map_loss(recipe: Recipe, parent: Stage, stage: Stage) -> None:
    """Raises StageError where the stage lost more mAP than the recipe allows."""
    limit = recipe.measure.max_map_loss
    before, after = parent.metrics["map"], stage.metrics["map"]
    if limit is not None and after < (1 - limit) * before:
        raise StageError(
            f"{stage.plugin}: mAP fell from {before:.4f} to {after:.4f}, by {1 - after / before:.0%}; "
            f"measure.max_map_loss stops the chain at {limit:.0%}"
        )


def results(recipe: Recipe, stages: list[Stage]) -> dict[str, Any]:
    """What results.json holds and `--json` prints."""
    engines = {step.plugin.engine for step in recipe.chain if step.plugin.engine}
    runtimes = {name.split("-")[0] for name in recipe.measure.runtimes}  # openvino-bf16 is of the package openvino
    packages = sorted(engines | {"detpress", "torch", "torchvision"} | runtimes)
    return {
        "recipe": recipe.as_dict(),
        "seed": recipe.seed,
        "protocol": protocol_id(recipe.measure),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "stages": [stage.as_dict() | {"remarks": remarks(stages[: i + 1])} for i, stage in enumerate(stages)],
    }


def write_run_folder(recipe: Recipe, stages: list[Stage], folder: Path) -> dict[str, Any]:
    """Writes the run's folder (see detpress/run/run_folder.py) and returns `results`, its bundles being those in it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = results(recipe, stages)
    copies = {f"{stage.index}-{stage.plugin}": stage for stage in stages}
    for name, entry in zip(copies, found["stages"], strict=True):
        entry["bundle"] = str(folder / name / "bundle")
    exchange_stages(copies, folder)
    (folder / "recipe.yaml").write_text(recipe.text, encoding="utf-8")
    write_atomically(folder / "results.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found
