"""The keys of a chain's stages, known before anything is computed.

    key 0 = sha256(layer list, weights or seed, or both for new heads, torch,
                   other packages' kinds of layers and encodings in the model)
    key n = sha256(key n-1, plugin, options that are not at their defaults, versions, seed, data, device, protocol)

Two runs share a stage where nothing differs that decides what it becomes. The number of threads is left out: another
number changes the last bits of a sum, and with it in the key no two machines would share anything. The stage's record
has it.
"""

import hashlib
import inspect
import json
import os.path
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from detpress.builtin import find_bundle
from detpress.contract.registry import PLUGINS, engine_version, environment_of
from detpress.detector import images
from detpress.detector.form import Form
from detpress.detector.layer_kinds import LAYERS, kind_name
from detpress.detector.model import Model
from detpress.doors import Door, classes_of, distribution_of, entry_named, version
from detpress.encodings.bundle import bundle_digest
from detpress.encodings.known import ENCODINGS, encoding_name
from detpress.measure.scoring import protocol_id, scoring_runtime
from detpress.options import STAGE
from detpress.recipe.file import Recipe, Step
from detpress.run.initial_model import model_identity
from detpress.run.store import digest
from detpress.runtimes.names import package_of
from detpress.training import augment, dataset, loss
from detpress.training import trainer as training
from detpress.training.named_objective import OBJECTIVES, NamedObjective, load_objective, objectives_in
from detpress.voc.devkit import Devkit

VERSIONS = {
    "trainer": training.VERSION,
    "loss": loss.VERSION,
    "augmentation": augment.VERSION,
    "training set": dataset.VERSION,
    "images": images.VERSION,
}
PACKAGES = ("torch", "torchvision", "pytorch-lightning")
DOORS = (LAYERS, ENCODINGS, OBJECTIVES)  # a plugin may use what they bring


def chain_keys(recipe: Recipe, devkit: Devkit, model: Model) -> list[str]:
    """The keys of all stages; `model` is the one before the first plugin."""
    first = {"model": model_identity(recipe, model), "torch": version("torch")}
    keys = [digest(first | _kinds_of_others(model))]
    sets = [recipe.data.train]
    if recipe.data.val in devkit.image_set_names:  # needed only where something chooses by it
        sets.append(recipe.data.val)
    fingerprint = devkit.fingerprint(sets)
    for step in recipe.chain:
        keys.append(stage_key(keys, step, recipe, fingerprint))
    return keys


def stage_key(before: Sequence[str], step: Step, recipe: Recipe, fingerprint: str) -> str:
    """sha256 over all that decides what `step` makes of the last of the stages whose keys are `before`.

    Raises InputError for a bundle, named by the step's options, that is not there.
    """
    plugin, config, entry = step.plugin, step.config, entry_named(step.name, PLUGINS.group)
    earlier = {f"{STAGE}{number}": key for number, key in enumerate(before)}
    gpu = torch.cuda.is_available()
    parts = {
        "parent": before[-1],
        "plugin": entry.plain,
        "config": chosen(config),
        "version": plugin.version,
        "distribution": (entry.distribution, entry.version),
        "engine": engine_version(plugin),
        "bundles": {name: earlier.get(name) or bundle_digest(find_bundle(name)) for name in plugin.bundles(config)},
        "files": {name: _sha256(Path(name)) for name in _files(config.model_dump())},
        "versions": VERSIONS | {name: version(name) for name in PACKAGES},
        "device": "cuda" if gpu else "cpu",
        "precision": training.automatic_precision(gpu),
        "seed": recipe.seed,
        "data": {"fingerprint": fingerprint, "settings": chosen(recipe.data, {"root", "test"})},
        "protocol": protocol_id(recipe.measure),
    }
    if not entry.built_in:
        parts["code"] = code_digest(type(plugin))
        parts |= _at_hand(entry.distribution)
    if environment := environment_of(plugin):
        parts["environment"] = environment.versions
    if objectives := {named.name: _objective_identity(named) for named in objectives_in(config)}:
        parts["objectives"] = objectives
    if plugin.chooses_by_map:
        runtime = scoring_runtime(Form.INT8, list(recipe.measure.runtimes))
        parts["scored in"] = [runtime, version(package_of(runtime))]
    if not plugin.repeats(config):  # it measures, in the way that the recipe says
        parts["latency"] = [recipe.measure.batch, recipe.measure.threads]
    return digest(parts)


def _objective_identity(named: NamedObjective) -> list[Any]:
    """Its version, its package's, and the code of what is not of detpress."""
    kind, distribution = load_objective(named.name), distribution_of(named.name, OBJECTIVES.group)
    return [kind.version, *distribution, None if distribution[0] == "detpress" else code_digest(kind)]


def chosen(options: BaseModel, without: set[str] | None = None) -> Any:
    """The options that are not at their defaults, as plain data: an option that a new version adds changes no key."""
    return _plain(options.model_dump(exclude=without, exclude_defaults=True))


def _plain(value: Any) -> Any:
    """Data that JSON can hold; a set, which has no order of its own, is sorted."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(part) for part in value), key=json.dumps)
    return to_jsonable_python(value, inf_nan_mode="strings")


def _files(value: Any) -> Iterator[str]:
    """The files that options name. A word without dot or slash is none, whatever lies in the working directory."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _files(part)
    named = isinstance(value, Path) or (isinstance(value, str) and ("." in value or "/" in value))
    if named and os.path.isfile(value):  # noqa: PTH113  (Path.is_file raises for a text that is too long to be a name)
        yield str(value)


def _kinds_of_others(model: Model) -> dict[str, Any]:
    """What other packages bring of the model: nothing where it is of detpress alone.

    An architecture is not among it: the layer list that it gave is in the key.
    """
    kinds = {kind_name(kind): kind for kind in {type(layer) for layer in model.architecture.layers}}
    encodings = {encoding_name(kind): kind for kind in {type(encoding) for encoding in model.encodings.values()}}
    found = {"layers": _of_others(kinds, LAYERS), "encodings": _of_others(encodings, ENCODINGS)}
    return {door: brought for door, brought in found.items() if brought}


def _at_hand(package: str) -> dict[str, Any]:
    """What a plugin of `package` may use of third ones, whatever it does use: that is known only when it has run."""
    found = {}
    for door in DOORS:
        brought = _of_others(classes_of(door), door)
        if of_third := {name: identity for name, identity in brought.items() if identity[0] != package}:
            found[f"at hand: {door.group}"] = of_third
    return found


def _of_others(kinds: Mapping[str, type], door: Door) -> dict[str, tuple[str, str, str]]:
    """Package, its version and its code, by the names of those that are not of detpress."""
    brought = {name: distribution_of(name, door.group) for name in sorted(kinds)}
    return {name: (*by, code_digest(kinds[name])) for name, by in brought.items() if by[0] != "detpress"}


def code_digest(kind: type) -> str:
    """sha256 over the source of the class's package, or of its module where that lies in no package."""
    name = kind.__module__.partition(".")[0]
    folders = [Path(folder) for folder in getattr(sys.modules[name], "__path__", ())]
    sources = {str(path.relative_to(folder)): path for folder in folders for path in folder.rglob("*.py")}
    if not folders:
        sources = {name: Path(inspect.getfile(kind))}
    return digest({name: _sha256(path) for name, path in sources.items()})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
