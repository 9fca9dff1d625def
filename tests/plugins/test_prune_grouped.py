"""Every filter pruner on a network whose filters hang together in all ways that Darknet's layers have."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_training import small_bench

from detpress.contract.plugin import Plugin, Workbench
from detpress.detector.architecture import Architecture
from detpress.detector.channels import removable_filters
from detpress.detector.kinds import AveragePool, Convolution, Route, Sam, ScaleChannels, Shortcut, Yolo
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.plugins.continuous import ContinuousOptions, Sparsify
from detpress.plugins.lottery import Moment, Ticket, TicketOptions
from detpress.plugins.nni_prune import FPGM, L1Norm, L2Norm, Movement, Slim, Taylor
from detpress.plugins.nni_prune_options import (
    FilterPruning,
    MovementPruning,
    MovementSchedule,
    Schedule,
    SlimPruning,
    TrainedPruning,
)
from detpress.plugins.nni_speedup import NoOptions, Speedup
from detpress.plugins.prune import Magnitude, Pruning, Random
from detpress.plugins.sparse_training import SparseTraining, SparseTrainingOptions
from detpress.pruning.budgets import size_of
from detpress.training.config import TrainingConfig, TrainingOptions
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits

PLAIN: dict[str, Any] = {"batch_normalize": False}
LAYERS = (
    Convolution(16, 3, 2),
    Convolution(16, 3, 2, groups=8),  # parts of two filters: (0, 0, 1, 1), 8 units
    Convolution(16, 1),
    Route((2,), 2, 1),  # (2, 2), 8 units
    Convolution(8, 3, groups=2),  # (4, 4), 4 units, with others by the shortcut
    Route((4, 3)),
    Convolution(24, 3, 2, activation="linear"),
    Convolution(16, 1, groups=2),
    Convolution(16, 1, activation="linear", **PLAIN),
    Shortcut(6),  # 16 of 24
    AveragePool(),
    Convolution(4, 1, activation="relu", **PLAIN),
    Convolution(16, 1, activation="logistic", **PLAIN),
    ScaleChannels(9),
    Convolution(16, 1, activation="logistic"),
    Sam(13),
)
TRAINING = TrainingOptions(batch_size=4)
HALF: dict[str, Any] = {"sparsity": 0.5}
AT_ONCE = [
    (L1Norm(), FilterPruning(**HALF)),
    (L1Norm(), FilterPruning(sparsity=0.3, round_to=4)),
    (L2Norm(), FilterPruning(**HALF, ranking="global", at_most=0.75)),
    (FPGM(), FilterPruning(**HALF, overrides={"layers.1": 0.25, "layers.0": 0.25})),
    (Magnitude(), Pruning(**HALF, masks="filters")),
    (Random(), Pruning(**HALF, masks="filters", ranking="global")),
]
TRAINED = [
    (L1Norm(), FilterPruning(**HALF, schedule=Schedule(kind="linear", steps=2), training=TRAINING)),
    (Slim(), SlimPruning(**HALF, training=TRAINING)),
    (Taylor(), TrainedPruning(**HALF, ranking="global", training=TRAINING)),
    (Movement(), MovementPruning(**HALF, schedule=MovementSchedule(steps=2), cooldown=1, training=TRAINING)),
    (Ticket(), TicketOptions(
        rounds=1, share=0.5, masks="filters", rewind_to=Moment(step=1), training=TrainingConfig(epochs=1, batch_size=4)
    )),
    (Sparsify(), ContinuousOptions(masks="filters", epochs=3, initial=-0.002, training=TRAINING)),
]  # fmt: skip


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 8, "val": 2})
    return open_devkit(root)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    head = (Convolution(5 + len(devkit.classes), 1, activation="linear", **PLAIN), Yolo(((10, 10),)))
    found = new_model(Architecture("any", (*LAYERS, *head), tuple(devkit.classes), 64), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in found.network.state_dict().items():
        if name.endswith(("running_mean", "norm.bias")):
            tensor.normal_(generator=generator)
    return found


def assert_goes_without_a_trace(model: Model, plugin: Plugin, config: Any, bench: Workbench | Any) -> Model:
    """What the pruner masks is taken out, all of it; `nni.speedup` itself refuses maps that differ by 1e-5."""
    masked = plugin.apply(model, config, bench)
    removed = removable_filters(model.architecture, masked.masks)
    for i, count in removed.items():
        mask = masked.masks[f"layers.{i}.convolution.weight"]
        assert int((~mask.flatten(1).any(dim=1)).sum()) == count
    assert {int(name.split(".")[1]) for name, mask in masked.masks.items() if not mask.all()} == set(removed)
    return Speedup().apply(masked, NoOptions(), bench)


BENCH = SimpleNamespace(log=logging.getLogger("tests.prune_grouped"), seed=0)


@pytest.mark.parametrize(("plugin", "config"), AT_ONCE, ids=lambda value: type(value).__name__)
def test_what_is_masked_at_once_goes(model: Model, plugin: Plugin, config: Any) -> None:
    smaller = assert_goes_without_a_trace(model, plugin, config, BENCH)
    planned = plugin.plan(model, config)
    assert planned is not None
    if getattr(config, "ranking", "uniform") == "uniform":
        there = Speedup().plan(planned.model, NoOptions()).model.architecture
        assert there.output_channels == smaller.architecture.output_channels


@pytest.mark.parametrize(("plugin", "config"), TRAINED, ids=lambda value: type(value).__name__)
def test_what_is_masked_while_it_trains_goes(
    model: Model, devkit: Devkit, tmp_path: Path, plugin: Plugin, config: Any
) -> None:
    bench = small_bench(devkit, model, tmp_path / "bench")
    bench.files = tmp_path
    assert_goes_without_a_trace(model, plugin, config, bench)


def test_half_of_the_units_of_each_group_go(model: Model) -> None:
    smaller = assert_goes_without_a_trace(model, L1Norm(), FilterPruning(sparsity=0.5), BENCH).architecture
    groups = [layer.groups for layer in smaller.layers if isinstance(layer, Convolution) and layer.groups > 1]
    assert smaller.output_channels[:3] == (8, 8, 8)
    assert groups == [4, 2, 2]
    assert smaller.output_channels[6] == 12
    assert smaller.output_channels[8:10] == (8, 8)


def test_sparse_training_meets_two_budgets(model: Model, devkit: Devkit, tmp_path: Path) -> None:
    config = SparseTrainingOptions(
        parameters=0.4, macs=0.4, steps=[], epochs=1, floor=2, statistics_images=4, training=TRAINING
    )
    smaller = SparseTraining().apply(model, config, small_bench(devkit, model, tmp_path / "bench"))
    whole, left = size_of(model.architecture), size_of(smaller.architecture)
    assert left.parameters <= 0.6 * whole.parameters
    assert left.macs <= 0.6 * whole.macs


def test_filters_of_one_unit_need_one_sparsity(model: Model) -> None:
    with pytest.raises(InputError, match=r"layers\.0, layers\.1 .* need one sparsity, not 0\.25 and 0\.5$"):
        L1Norm().plan(model, FilterPruning(sparsity=0.5, overrides={"layers.1": 0.25}))
