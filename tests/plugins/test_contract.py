"""Built-in plugins keep the contract: options and cards of all of them; the rest, of those that train nothing.

The whole kit, which takes up to a minute a plugin, is `detpress plugins check NAME`.
"""

from importlib.metadata import entry_points
from typing import Any
from unittest import SkipTest

import pytest

from detpress.contract.registry import load_plugin
from detpress.testing import PluginCheck, checks_of

TRAINING = {"epochs": 1, "batch_size": 4}
TAUGHT = {"teacher": "builtin:digits", "training": TRAINING}
TRAINS: dict[str, dict[str, Any]] = {
    "binary.connect": {"training": TRAINING},
    "binary.net": {"training": TRAINING},
    "binary.weights": {"training": TRAINING},
    "binary.xnor": {"training": TRAINING},
    "clip_q": {"epochs": 1, "training": {"batch_size": 4}, "trials": 3},
    "continuous.sparsify": {"epochs": 2, "rewind_epoch": 1},
    "distill.chen": TAUGHT,
    "distill.crosskd": TAUGHT,
    "distill.detector": TAUGHT,
    "distill.fitnets": TAUGHT | {"hint_epochs": 1},
    "distill.gan": TAUGHT,
    "distill.hinton": TAUGHT,
    "distill.kdgan": TAUGHT,
    "distill.pkd": TAUGHT,
    "inc.qat": TRAINING,
    "lottery.ticket": {"rounds": 1, "training": TRAINING, "rewind_to": {"share": 0.5}},
    "nni.adaptive1d_layerwise": TAUGHT,
    "nni.bnn": {"training": TRAINING},
    "nni.dorefa": {"training": TRAINING},
    "nni.dynamic_layerwise": TAUGHT,
    "nni.lsq": {"training": TRAINING},
    "nni.lsq_plus": {"training": TRAINING},
    "nni.movement": {"sparsity": 0.5},
    "nni.qat": {"training": TRAINING},
    "nni.slim": {"sparsity": 0.5},
    "nni.taylor": {"sparsity": 0.5},
    "search.inherit": {"trials": 2, "population": 2, "tournament": 2, "supernet": TRAINING},
    "sparse_training": {"parameters": 0.5},
    "train.finetune": TRAINING,
    "train.scratch": TRAINING,
}
TRAINS_NOTHING: dict[str, dict[str, Any]] = {
    "deep_compression.encode": {},
    "deep_compression.share": {"epochs": 0},
    "deploy.int8": {"calibration_images": 4},
    "inc.dynamic_int8": {},
    "inc.mixed_precision": {},
    "inc.static_int8": {"calibration_images": 4, "corrected": False},
    "inc.weight_only": {"float_layers": ["layers.0"]},
    "low_rank.cp": {"energy": 0.8},
    "low_rank.spatial": {"energy": 0.8},
    "low_rank.svd": {"energy": 0.8},
    "low_rank.tucker": {"energy": 0.8},
    "mixed_bits": {"calibration_images": 4},
    "nni.fpgm": {"sparsity": 0.5},
    "nni.l1norm": {"sparsity": 0.5},
    "nni.l2norm": {"sparsity": 0.5},
    "nni.level": {"sparsity": 0.5},
    "nni.ptq": {"calibration_images": 4},
    "nni.speedup": {},
    "prune.magnitude": {"sparsity": 0.5},
    "prune.random": {"sparsity": 0.5},
    "rewrite.activation": {},
    "rewrite.architecture": {"arch": "yolov3-tiny", "width": 0.125},
    "rewrite.float": {},
    "rewrite.image_size": {"to": 128},
    "train.batchnorm": {"images": 4},
    "vector_quantization.product": {"epochs": 0, "calibration_images": 4},
    "vector_quantization.residual": {"epochs": 0, "calibration_images": 0},
}
HELD_BY_THEIR_OWN_TESTS = {
    "inc.autotune",  # chooses by a mAP, which random weights do not have
    "nni.nas",
}
ONE_APPLICATION = ("applies", "result", "changes", "given", "plan", "output", "folder", "threads")


def chosen(plugin: str, options: dict[str, Any], names: tuple[str, ...]) -> list[PluginCheck]:
    return [check for check in checks_of(plugin, options) if str(check) in names]


def test_every_plugin_that_can_run_is_held_somewhere() -> None:
    built_in = {entry.name for entry in entry_points(group="detpress.plugins") if entry.dist.name == "detpress"}
    can_run = {name for name in built_in if load_plugin(name).unavailable is None}
    assert can_run == TRAINS.keys() | TRAINS_NOTHING.keys() | HELD_BY_THEIR_OWN_TESTS


@pytest.mark.parametrize(("plugin", "options"), (TRAINS | TRAINS_NOTHING).items())
def test_cards_and_options(plugin: str, options: dict[str, Any]) -> None:
    for check in chosen(plugin, options, ("documented", "options")):
        check()


@pytest.mark.parametrize(("plugin", "options"), TRAINS_NOTHING.items())
def test_one_application(plugin: str, options: dict[str, Any]) -> None:
    for check in chosen(plugin, options, ONE_APPLICATION):
        try:
            check()
        except SkipTest:
            assert str(check) == "plan", "nothing else may be left out"
