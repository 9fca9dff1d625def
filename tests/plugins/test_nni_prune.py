"""The NNI plugins of a recipe: which filters their options choose, and what comes out."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from detpress.detector.architecture import Architecture, Convolution, build_architecture
from detpress.detector.channels import stored_parameters, without_filters
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.design import architecture_names
from detpress.detector.form import Form
from detpress.detector.kinds import AveragePool, ScaleChannels, Yolo
from detpress.detector.layer import Layer
from detpress.detector.model import Model, new_model
from detpress.errors import InputError, StageError
from detpress.measure.section import Measure
from detpress.plugins.nni_prune import FPGM, L1Norm, L2Norm, Level, Movement, Pruner, Slim, Taylor
from detpress.plugins.nni_prune_options import (
    FilterPruning,
    MovementPruning,
    MovementSchedule,
    Pruning,
    Schedule,
    SlimPruning,
    TrainedPruning,
    WeightPruning,
    filter_targets,
)
from detpress.plugins.nni_speedup import NoOptions, Speedup, largest_difference
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training.config import TrainingOptions
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits


@dataclass
class SmallBench:
    """What the NNI plugins use of a workbench."""

    scratch: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tests.nni_prune"))
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"NNI's plugins need no data: bench.{name}")


@pytest.fixture
def bench(tmp_path: Path) -> SmallBench:
    return SmallBench(tmp_path)


def small(name: str = "yolov3", width: float = 0.125) -> Model:
    model = new_model(build_architecture(name, ["red", "white", "platelet"], 96, width), seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, generator=generator)
    return model


def full_width() -> Architecture:
    return build_architecture("yolov3", [f"class{i}" for i in range(20)], 416)


def filters_to_remove(architecture: Architecture, config: FilterPruning) -> dict[int, int]:
    return dict(filter_targets(architecture, config).removed)


def share_left(removed: dict[int, int], architecture: Architecture) -> dict[int, float]:
    return {i: 1 - count / architecture.output_channels[i] for i, count in removed.items()}


# Which layers a pruner is given, is decided before it scores them: one meets all architectures, the others meet one.
# Filters before several biases are never removed (tests/detector/test_multi_bias.py).
PRUNED_EVERYWHERE = [name for name in architecture_names() if not name.startswith("multi-bias")]
EACH = [*((L1Norm(), name) for name in PRUNED_EVERYWHERE), (L2Norm(), "yolov3"), (FPGM(), "yolov3")]


@pytest.mark.parametrize(("plugin", "name"), EACH)
def test_prunes_the_asked_share_of_every_layer_but_the_heads(plugin: Pruner, name: str, bench: SmallBench) -> None:
    model = small(name)
    pruned = plugin.apply(model, FilterPruning(sparsity=0.3), bench)
    assert pruned.form is Form.MASKED
    for i, layer in enumerate(model.architecture.layers):
        if isinstance(layer, Convolution):
            weight = pruned.network.get_parameter(f"layers.{i}.convolution.weight")
            zero = int(weight.flatten(1).eq(0).all(dim=1).sum())
            assert zero == (0 if i in model.architecture.heads else int(0.3 * layer.filters + 1e-9)), i


def test_what_is_added_is_pruned_alike(bench: SmallBench) -> None:
    pruned = L1Norm().apply(small(), FilterPruning(sparsity=0.5), bench)
    for group in coupled_convolutions(pruned.architecture):
        masks = [pruned.masks.get(f"layers.{i}.norm.weight") for i in group]
        if group[0] not in pruned.architecture.heads:
            assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_masked_parameters_are_zero_and_the_others_as_they_were(bench: SmallBench) -> None:
    model = small("yolov3-tiny")
    before = copy.deepcopy(model.network.state_dict())
    pruned = FPGM().apply(model, FilterPruning(sparsity=0.5), bench)
    for name, parameter in pruned.network.named_parameters():
        mask = pruned.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert mask.dtype is torch.bool
        assert torch.equal(parameter, before[name] * mask)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert [type(module) for module in pruned.network.modules()] == [type(m) for m in model.network.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pruned.network.modules())


def test_exclude_leaves_layers_whole_and_what_is_added_to_them() -> None:
    architecture = full_width()
    stage = next(group for group in coupled_convolutions(architecture) if len(group) == 5)
    removed = filters_to_remove(architecture, FilterPruning(sparsity=0.5, exclude=["layers.0", f"layers.{stage[2]}"]))
    assert 0 not in removed
    assert not set(stage) & set(removed)
    assert 2 in removed


def test_a_head_may_be_excluded_although_it_always_is() -> None:
    architecture = full_width()
    heads = [f"layers.{i}" for i in architecture.heads]
    assert filters_to_remove(architecture, FilterPruning(sparsity=0.5, exclude=heads)) == filters_to_remove(
        architecture, FilterPruning(sparsity=0.5)
    )


def test_the_last_override_that_matches_a_layer_wins() -> None:
    architecture = build_architecture("yolov3-tiny", ["cell"], 416)
    removed = filters_to_remove(
        architecture, FilterPruning(sparsity=0.5, overrides={"layers.1?": 0.25, "layers.12": 0.75, "layers.8": 0.0})
    )
    left = share_left(removed, architecture)
    assert (left[0], left[10], left[12], left[13], left[14]) == (0.5, 0.75, 0.25, 0.75, 0.75)
    assert 8 not in left


def test_round_to_keeps_a_multiple_of_filters_in_whole_groups() -> None:
    architecture = build_architecture("yolov3", ["cell"], 416, 0.3)
    removed = filters_to_remove(architecture, FilterPruning(sparsity=0.45, round_to=8))
    channels = architecture.output_channels
    assert removed
    for group in coupled_convolutions(architecture):
        kept = {channels[i] - removed.get(i, 0) for i in group}
        assert len(kept) == 1
        assert kept.pop() in {channels[group[0]], *range(8, 1024, 8)}
        assert all(channels[i] - removed[i] >= 0.55 * channels[i] for i in group if i in removed)


def test_no_layer_loses_all_its_filters() -> None:
    architecture = build_architecture("yolov3", ["cell"], 416, 0.03)
    removed = filters_to_remove(architecture, FilterPruning(sparsity=1 - 1e-12))
    assert removed
    assert all(architecture.output_channels[i] - count == 1 for i, count in removed.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ["layer.3"]}, r"exclude: 'layer\.3' matches no layer; did you mean 'layers\.3'"),
        ({"exclude": ["layers.4"]}, r"exclude: 'layers\.4' matches no layer"),  # a shortcut
        ({"overrides": {"conv*": 0.1}}, r"overrides: 'conv\*' matches no layer"),
        ({"overrides": {"layers.0": 1.0}}, r"overrides: 'layers\.0': expected a sparsity from 0 to below 1, got 1"),
        ({"overrides": {"layers.3": 0.2}}, r"layers\.1, layers\.3 are added .* one sparsity, not 0\.2 and 0\.5"),
    ],
)
def test_names_what_is_wrong_with_an_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        filters_to_remove(full_width(), FilterPruning(sparsity=0.5, **options))


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5, "parameters": 0.6}])
def test_takes_either_a_sparsity_or_a_share_of_parameters(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="expected either `sparsity` or `parameters`"):
        FilterPruning(**options)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_share_of_parameters_is_removed_and_hardly_more(share: float, bench: SmallBench) -> None:
    model = small("yolov3", 0.25)
    shrunk = Speedup().apply(L1Norm().apply(model, FilterPruning(parameters=share), bench), NoOptions(), bench)
    removed = 1 - count(shrunk.network) / count(model.network)
    assert share <= removed < share + 0.02


def test_says_how_many_parameters_can_go_at_most() -> None:
    with pytest.raises(InputError, match=r"parameters: 0\.999 cannot be reached; at most 0\.\d+ of them can go"):
        filters_to_remove(build_architecture("yolov3-tiny", ["cell"], 416, 0.1), FilterPruning(parameters=0.999))


def test_half_of_the_filters_is_three_quarters_of_the_full_size_parameters() -> None:
    architecture = full_width()
    removed = filters_to_remove(architecture, FilterPruning(sparsity=0.5))
    assert set(share_left(removed, architecture).values()) == {0.5}
    assert len(removed) == 72  # 75 convolutions but the 3 heads
    assert stored_parameters(architecture) == 61_626_049
    assert stored_parameters(without_filters(architecture, removed)) / 61_626_049 == pytest.approx(0.251, abs=5e-4)


@pytest.mark.parametrize(("plugin", "name"), EACH)
def test_the_plan_is_what_happens(plugin: Pruner, name: str, bench: SmallBench) -> None:
    model, config = small(name), FilterPruning(sparsity=0.37, round_to=2, exclude=["layers.0"])
    plan, pruned = plugin.plan(model, config), plugin.apply(model, config, bench)
    assert {f"{layer}.convolution.weight" for layer in plan.layers} <= set(pruned.masks)
    assert {key: int(mask.sum()) for key, mask in plan.model.masks.items()} == {
        key: int(mask.sum()) for key, mask in pruned.masks.items()
    }
    plan, shrunk = Speedup().plan(plan.model, NoOptions()), Speedup().apply(pruned, NoOptions(), bench)
    assert plan.model.architecture == shrunk.architecture
    assert plan.model.form is shrunk.form is Form.DENSE


@pytest.mark.parametrize("name", architecture_names())
def test_speedup_is_exact(name: str, bench: SmallBench) -> None:
    pruned = L1Norm().apply(small(name, 0.1), FilterPruning(sparsity=0.4), bench)
    shrunk = Speedup().apply(pruned, NoOptions(), bench)
    assert shrunk.masks == {}
    assert count(shrunk.network) < count(pruned.network)
    assert largest_difference(pruned, shrunk) < 1e-5


def test_logs_layer_by_layer_what_was_removed_and_what_has_to_stay(
    bench: SmallBench, caplog: pytest.LogCaptureFixture
) -> None:
    pruned = L1Norm().apply(small(), FilterPruning(sparsity=0.5), bench)
    for part in ("convolution.weight", "norm.weight", "norm.bias"):
        del pruned.masks[f"layers.1.{part}"]  # added to layer 3, which so keeps its 4 masked filters
    with caplog.at_level(logging.INFO, bench.log.name):
        Speedup().apply(pruned, NoOptions(), bench)
    messages = [record.message for record in caplog.records]
    assert "layers.2: 4 -> 2 filters" in messages
    assert "layers.3: 8 -> 8 filters; 4 masked ones stay, another branch needs them" in messages
    assert any(message.startswith("largest difference from the masked network: ") for message in messages)


def test_a_pruner_without_a_filter_to_spare_fails(bench: SmallBench) -> None:
    with pytest.raises(StageError, match="masked nothing"):
        L1Norm().apply(small(), FilterPruning(sparsity=0.005), bench)


def test_a_speedup_that_removes_nothing_fails(bench: SmallBench) -> None:
    pruned = L1Norm().apply(small(), FilterPruning(sparsity=0.5), bench)
    alone = {name: mask for name, mask in pruned.masks.items() if name.startswith("layers.1.")}
    with pytest.raises(StageError, match="removed no filter"):
        Speedup().apply(pruned.with_network(pruned.network, Form.MASKED, alone), NoOptions(), bench)


def test_a_smaller_network_that_differs_is_refused(bench: SmallBench) -> None:
    """Masks of weights that are not zero: what is taken out was in use."""
    model = small()
    masks = L1Norm().apply(model, FilterPruning(sparsity=0.5), bench).masks
    with pytest.raises(StageError, match=r"differs from the masked one by [\d.]+ of its output"):
        Speedup().apply(model.with_network(model.network, Form.MASKED, masks), NoOptions(), bench)


@pytest.mark.parametrize("plugin", [L1Norm(), L2Norm(), FPGM()])
def test_the_same_model_is_pruned_to_the_same_bits(plugin: Pruner, bench: SmallBench) -> None:
    one, other = (plugin.apply(small(), FilterPruning(sparsity=0.4), bench) for _ in range(2))
    assert all(torch.equal(value, other.network.state_dict()[key]) for key, value in one.network.state_dict().items())


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# What trains while it prunes


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 4})
    return open_devkit(root)


def training_bench(devkit: Devkit, scratch: Path) -> StageWorkbench:
    scratch.mkdir(exist_ok=True)
    log = logging.getLogger("tests.nni_prune")
    return StageWorkbench(0, scratch, log, lambda what, done, total: None, devkit, Data(root=""), Measure())


def tiny(devkit: Devkit, name: str = "yolov3-tiny") -> Model:
    return new_model(build_architecture(name, devkit.classes, 64, 0.0625), seed=0)


RISING = Schedule(kind="agp", steps=2)
TRAINED = {
    "l2norm": (L2Norm(), FilterPruning(sparsity=0.5, schedule=RISING)),
    "fpgm": (FPGM(), FilterPruning(sparsity=0.5, schedule=Schedule(kind="linear", steps=2))),
    "slim": (Slim(), SlimPruning(sparsity=0.5)),
    "taylor": (Taylor(), TrainedPruning(sparsity=0.5, round_to=2)),
    "taylor, global": (Taylor(), TrainedPruning(sparsity=0.4, ranking="global", schedule=RISING)),
    "movement": (Movement(), MovementPruning(sparsity=0.5, schedule=MovementSchedule(steps=2))),
}


@pytest.mark.parametrize(
    ("plugin", "name"),
    [
        *((plugin, "yolov3-tiny") for plugin in TRAINED),
        *(
            (plugin, name)
            for plugin in ("slim", "taylor, global")
            for name in architecture_names()
            if name != "yolov3-tiny"
        ),
    ],
)
def test_trained_pruners_mask_filters_that_speedup_removes_exactly(
    plugin: str, name: str, devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere))
    model, bench = tiny(devkit, name), training_bench(devkit, tmp_path / "scratch")
    before = copy.deepcopy(model.network.state_dict())
    pruner, config = TRAINED[plugin]
    pruned = pruner.apply(model, config, bench)
    assert pruned.form is Form.MASKED
    weight = ".convolution.weight"
    assert {name.removesuffix(weight) for name in pruned.masks if name.endswith(weight)} == set(
        pruner.plan(model, config).layers
    )
    weights = pruned.network.state_dict()
    assert not torch.equal(weights["layers.0.convolution.weight"], before["layers.0.convolution.weight"])
    assert all(torch.equal(before[key], value) for key, value in model.network.state_dict().items())
    assert [type(module) for module in pruned.network.modules()] == [type(m) for m in model.network.modules()]
    assert not any("forward" in vars(module) or module._forward_hooks for module in pruned.network.modules())
    shrunk = Speedup().apply(pruned, NoOptions(), bench)
    assert count(shrunk.network) < count(pruned.network)
    assert largest_difference(pruned, shrunk) < 1e-5
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("plugin", ["l2norm", "slim", "taylor, global", "movement"])
def test_depthwise_blocks_with_squeeze_and_excitation_are_pruned_exactly(
    plugin: str, devkit: Devkit, tmp_path: Path
) -> None:
    """The convolutions of a squeeze have no BatchNorm, which slim scores: the first keeps its filters, the second goes
    with what it scales."""
    filters = 3 * (5 + len(devkit.classes))
    blocks: list[Layer] = []
    for _ in range(3):
        source = len(blocks) + 1
        blocks += [
            Convolution(8, 3, 2, activation="swish"),
            Convolution(8, 3, activation="hard_swish", groups=8),
            AveragePool(),
            Convolution(4, 1, batch_normalize=False, activation="relu"),
            Convolution(8, 1, batch_normalize=False, activation="logistic"),
            ScaleChannels(source),
        ]
    head = (Convolution(filters, 1, batch_normalize=False, activation="linear"), Yolo(((9, 9), (20, 20), (30, 30))))
    model = new_model(Architecture("blocks", (*blocks, *head), tuple(devkit.classes), 64), seed=0)
    bench = training_bench(devkit, tmp_path / "scratch")
    pruner, config = TRAINED[plugin]
    pruned = pruner.apply(model, config, bench)
    assert ("layers.3.convolution.weight" in pruned.masks) == (plugin != "slim")
    for i in (0, 1, 4):
        kept = [pruned.masks[f"layers.{k}.convolution.weight"].flatten(1).any(dim=1) for k in (0, i)]
        assert torch.equal(*kept)
    shrunk = Speedup().apply(pruned, NoOptions(), bench)
    assert largest_difference(pruned, shrunk) < 1e-5
    filters = shrunk.architecture.output_channels[1]
    assert shrunk.architecture.layers[1] == replace(model.architecture.layers[1], filters=filters, groups=filters)
    assert filters < 8


@pytest.mark.parametrize(
    ("plugin", "config"),
    [
        (Level(), WeightPruning(sparsity=0.6, exclude=["layers.0"], overrides={"layers.2": 0.25})),
        (
            Movement(),
            MovementPruning(sparsity=0.6, exclude=["layers.0"], overrides={"layers.2": 0.25}, masks="weights"),
        ),
    ],
)
def test_single_weights_are_masked_in_every_convolution(
    plugin: Pruner, config: WeightPruning | MovementPruning, devkit: Devkit, tmp_path: Path
) -> None:
    model = tiny(devkit)
    pruned = plugin.apply(model, config, training_bench(devkit, tmp_path))
    for i, layer in enumerate(model.architecture.layers):
        name = f"layers.{i}.convolution.weight"
        if isinstance(layer, Convolution):
            weight = pruned.network.get_parameter(name)
            share = 0 if i == 0 or i in model.architecture.heads else 0.25 if i == 2 else 0.6
            assert int(weight.eq(0).sum()) == int(share * weight.numel() + 1e-9), i
            assert (name in pruned.masks) == bool(share)
    plan = plugin.plan(model, config)
    assert {name: int(mask.sum()) for name, mask in plan.model.masks.items()} == {
        name: int(mask.sum()) for name, mask in pruned.masks.items()
    }
    with pytest.raises(InputError, match="would remove nothing: no filter is masked as a whole"):
        Speedup().plan(plan.model, NoOptions())


def test_slims_factors_end_in_the_scales_and_the_smallest_go(devkit: Devkit, tmp_path: Path) -> None:
    """The weights stand still and start with scales of 1: what the scales are in the end is the factors' doing."""
    still = TrainingOptions(learning_rate=1e-12, weight_decay=0.0, ema=0.0, batch_size=1)
    config = SlimPruning(sparsity=0.5, training=still, schedule=Schedule(epochs_per_step=3), penalty=0.01)
    pruned = Slim().apply(tiny(devkit), config, training_bench(devkit, tmp_path))
    for i in (4, 8, 12):
        scales, kept = pruned.network.get_parameter(f"layers.{i}.norm.weight"), pruned.masks[f"layers.{i}.norm.weight"]
        assert int(kept.sum()) == len(kept) - len(kept) // 2
        assert not scales[~kept].any()
        assert scales[kept].sub(1).abs().max() > 0.03  # twelve steps of a hundredth
        assert not pruned.network.get_parameter(f"layers.{i}.convolution.weight")[~kept].any()


def test_the_schedule_is_nnis(devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nni.compression.pruning import AGPPruner

    ratios: list[float] = []
    update = AGPPruner._update_sparse_goals_by_ratio
    monkeypatch.setattr(
        AGPPruner, "_update_sparse_goals_by_ratio", lambda self, ratio: (ratios.append(ratio), update(self, ratio))
    )
    config = FilterPruning(sparsity=0.5, schedule=Schedule(kind="agp", steps=4), training=TrainingOptions(batch_size=2))
    L1Norm().apply(tiny(devkit), config, training_bench(devkit, tmp_path))
    assert ratios == pytest.approx([0, 1 - 0.75**3, 1 - 0.5**3, 1 - 0.25**3, 1])


def test_a_global_plan_says_what_it_cannot_know(devkit: Devkit) -> None:
    plan = L1Norm().plan(tiny(devkit), FilterPruning(sparsity=0.5, ranking="global", overrides={"layers.2": 0.5}))
    assert plan.note == "10 layers are ranked globally; figures from here on are as if each lost the same share"
    assert len(plan.layers) == 11


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (WeightPruning, {"sparsity": 0.5, "round_to": 8}, "round_to"),
        (FilterPruning, {"sparsity": 0.5, "at_most": 0.5}, "at_most: expected only with `ranking: global`"),
        (FilterPruning, {"parameters": 0.5, "ranking": "global"}, "global ranking .*: expected `sparsity`, without"),
        (FilterPruning, {"sparsity": 0.5, "ranking": "global", "round_to": 2}, "without `parameters` and `round_to`"),
        (FilterPruning, {"sparsity": 0.5, "training": {}}, "training: this pruner trains only with a linear or agp"),
        (
            FilterPruning,
            {"sparsity": 0.5, "schedule": {"epochs_per_step": 2}},
            "epochs_per_step: this pruner trains only",
        ),
        (FilterPruning, {"sparsity": 0.5, "schedule": {"kind": "agp"}}, "agp: expected at least 2 steps, got 1"),
        (TrainedPruning, {"sparsity": 0.5, "schedule": {"steps": 2}}, "one_shot: expected steps: 1, got 2"),
        (MovementPruning, {"sparsity": 0.5, "schedule": {"kind": "linear", "steps": 2}}, "should be 'agp'"),
        (MovementPruning, {"parameters": 0.5, "masks": "weights"}, "single weights are masked: expected `sparsity`"),
    ],
)
def test_what_a_pruner_cannot_take_is_refused(config: type[Pruning], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**options)
