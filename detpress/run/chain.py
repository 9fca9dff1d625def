"""Runs a recipe's chain, stage after stage.

    model ──> nni.l1norm ──> nni.speedup ──> train.finetune ──> inc.static_int8
    key 0      key 1            key 2          key 3              key 4

A stage's key (detpress/run/keys.py) names all that decides its result, its parent's key among it. A stage whose key
is in the store is not made again, whichever recipe made it.
"""

import json
import platform
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detpress.contract.registry import PLUGINS
from detpress.doors import distribution_of, version
from detpress.encodings.bundle import load_bundle
from detpress.errors import InputError, StageError
from detpress.files.folders import alone_in, write_atomically
from detpress.measure.scoring import protocol_id
from detpress.options import STAGE
from detpress.recipe.file import Recipe, read_recipe, recipe_text
from detpress.run.application import runs_apart, work_of
from detpress.run.initial_model import initial_model
from detpress.run.keys import chain_keys
from detpress.run.making import Work
from detpress.run.remarks import remarks
from detpress.run.run_folder import exchange_stages
from detpress.run.stage import Listener, Stage, StageMaker, find_stage, measurement_digest
from detpress.run.store import Store
from detpress.runtimes.names import package_of
from detpress.voc.devkit import Devkit


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
        self.maker = StageMaker(recipe, devkit, store, listener, split or recipe.data.test)

    def stage(self, index: int) -> Stage:
        """Stage `index`, made if need be, and measured; the one before must be in the store.

        Raises InputError or StageError where it cannot be had.
        """
        return self.maker.stage(index, self.keys[index], self._work(index))

    def made(self, index: int) -> None:
        """Has stage `index` made, but not measured. Raises as `stage` does."""
        self.maker.made(self.keys[index], self._work(index))

    def _work(self, index: int) -> Work:
        if index == 0:
            return Work(self.names[0], lambda workbench: self.model)
        step, parent = self.recipe.chain[index - 1], self.keys[index - 1]
        earlier = {f"{STAGE}{i}": str(self.store.stage(key) / "bundle") for i, key in enumerate(self.keys[:index])}
        if apart := runs_apart(step):
            model = partial(load_bundle, self.store.stage(parent) / "bundle")
        else:
            model = partial(self.maker.take_model, parent)
        return work_of(step, self.recipe.seed, model, earlier, apart)


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


def check_map_loss(recipe: Recipe, parent: Stage, stage: Stage) -> None:
    """Raises StageError where the stage lost more mAP than the recipe allows."""
    limit = recipe.measure.max_map_loss
    before, after = parent.metrics["map"], stage.metrics["map"]
    if limit is not None and after < (1 - limit) * before:
        raise StageError(
            f"{stage.plugin}: mAP fell from {before:.4f} to {after:.4f}, by {1 - after / before:.0%}; "
            f"measure.max_map_loss stops the chain at {limit:.0%}"
        )


def results(recipe: Recipe, stages: list[Stage], failed: str | None = None) -> dict[str, Any]:
    """What results.json holds and `--json` prints. failed: why there are not all stages; None where there are."""
    engines = {step.plugin.engine for step in recipe.chain if step.plugin.engine}
    runtimes = {package_of(name) for name in recipe.measure.runtimes}
    packages = sorted(engines | {"detpress", "torch", "torchvision"} | runtimes)
    theirs = dict(distribution_of(step.name, PLUGINS.group) for step in recipe.chain)
    return {
        "recipe": recipe.as_dict(),
        "seed": recipe.seed,
        "protocol": protocol_id(recipe.measure),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages} | theirs,
        "failed": failed,
        "stages": [stage.as_dict() | {"remarks": remarks(stages[: i + 1])} for i, stage in enumerate(stages)],
    }


def write_run_folder(recipe: Recipe, stages: list[Stage], folder: Path, failed: str | None = None) -> dict[str, Any]:
    """Writes the run's folder (see detpress/run/run_folder.py) and returns `results`, its bundles being those in it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = results(recipe, stages, failed)
    copies = {f"{stage.index}-{stage.plugin}": stage for stage in stages}
    for name, entry in zip(copies, found["stages"], strict=True):
        entry["bundle"] = str(folder / name / "bundle")
    with alone_in(folder):  # the same command may have been given twice
        exchange_stages(copies, folder)
        _write_recipe(recipe, folder / "recipe.yaml")
        write_atomically(folder / "results.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def _write_recipe(recipe: Recipe, path: Path) -> None:
    """The recipe's file as it is, where it says the same in this folder; else what was run, its paths absolute."""
    write_atomically(path, recipe.text)
    try:
        copied = read_recipe(path)
        same = copied.search is not None or copied.as_dict() == recipe.as_dict()  # a search's winner has a file, too
    except InputError:
        same = False
    if not same:
        write_atomically(path, recipe_text(recipe, recipe.name))
