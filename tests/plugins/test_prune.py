"""The plain baselines: exactly as many as asked for, and nothing else changes."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.form import Form
from detpress.detector.kinds import Convolution, Yolo
from detpress.detector.model import Model, new_model
from detpress.errors import InputError, StageError
from detpress.plugins.nni_speedup import NoOptions, Speedup, largest_difference
from detpress.plugins.prune import Baseline, Magnitude, Pruning, Random
from detpress.pruning.selection import left_after
from detpress.pruning.unit import UNITS

BOTH: list[Baseline] = [Magnitude(), Random()]


@pytest.fixture(scope="module")
def model() -> Model:
    return new_model(build_architecture("yolov3", ["red", "white"], 64, 0.0625), seed=0)


def bench(seed: int = 0) -> Any:
    return SimpleNamespace(seed=seed, log=logging.getLogger("tests.prune"))


def counts(model: Model, masks: str) -> list[tuple[int, int]]:
    """Of each entry, how many there are and how many are kept."""
    return [(kept.numel(), int(kept.sum())) for kept in UNITS[masks].kept(model).values()]


@pytest.mark.parametrize("masks", ["weights", "filters"])
@pytest.mark.parametrize("ranking", ["uniform", "global"])
@pytest.mark.parametrize("plugin", BOTH)
def test_as_many_as_it_says_are_kept(plugin: Baseline, ranking: Any, masks: Any, model: Model) -> None:
    config = Pruning(sparsity=0.6, ranking=ranking, masks=masks)
    pruned = plugin.apply(model, config, bench())
    found, planned = counts(pruned, masks), plugin.plan(model, config)
    assert pruned.form is planned.model.form is Form.MASKED
    if ranking == "uniform":
        assert [kept for _, kept in found] == [max(UNITS[masks].at_least, left_after(all_, 0.6)) for all_, _ in found]
        assert counts(planned.model, masks) == found
    else:
        whole = sum(all_ for all_, _ in found)
        assert sum(kept for _, kept in found) == left_after(whole, 0.6)
        assert sum(kept for _, kept in counts(planned.model, masks)) == left_after(whole, 0.6)
        assert len({round(kept / all_, 2) for all_, kept in found}) > 1
    heads = {f"layers.{i}.convolution.weight" for i in model.architecture.heads}
    assert pruned.masks
    assert heads.isdisjoint(pruned.masks)
    for name, parameter in pruned.network.named_parameters():
        mask = pruned.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, model.network.get_parameter(name) * mask)


def test_the_smallest_go(model: Model) -> None:
    name = "layers.9.convolution.weight"
    size = model.network.get_parameter(name).abs()
    mask = Magnitude().apply(model, Pruning(sparsity=0.5), bench()).masks[name]
    assert size[~mask].max() <= size[mask].min()


def test_chance_is_the_seeds(model: Model) -> None:
    one, same, other = (Random().apply(model, Pruning(sparsity=0.5), bench(seed)).masks for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_masked_filters_are_taken_out_through_residual_groups(model: Model) -> None:
    pruned = Random().apply(model, Pruning(sparsity=0.5, masks="filters"), bench())
    smaller = Speedup().apply(pruned, NoOptions(), bench())
    kept = UNITS["filters"].kept(pruned)
    channels = smaller.architecture.output_channels
    for group, filters in kept.items():
        assert {channels[i] for i in group} == {int(filters.sum())}
    assert max(len(group) for group in kept) > 3


def test_what_is_masked_already_counts(model: Model) -> None:
    half = Magnitude().apply(model, Pruning(sparsity=0.5), bench())
    more = Random().apply(half, Pruning(sparsity=0.75), bench())
    assert [kept for _, kept in counts(more, "weights")] == [left_after(n, 0.75) for n, _ in counts(more, "weights")]
    assert all(not (more.masks[name] & ~half.masks[name]).any() for name in half.masks)
    with pytest.raises(InputError, match="nothing would be masked"):
        Magnitude().apply(half, Pruning(sparsity=0.4), bench())


def test_what_cannot_be_is_refused_before_anything_is_computed(model: Model) -> None:
    with pytest.raises(InputError, match=r"\d+ are to be removed, but at most \d+ can go"):
        Magnitude().plan(model, Pruning(sparsity=0.999, masks="filters", ranking="global"))


def test_the_plan_of_single_weights_masks_no_filter_as_a_whole(model: Model) -> None:
    plan = Magnitude().plan(model, Pruning(sparsity=0.6))
    with pytest.raises(InputError, match="would remove nothing: no filter is masked as a whole"):
        Speedup().plan(plan.model, NoOptions())


def test_how_many_filters_have_no_single_weight_left_is_not_known_before(model: Model) -> None:
    """At 99.9 % some have none in the plan, which masks weights evenly; the smallest ones are elsewhere."""
    plan = Magnitude().plan(model, Pruning(sparsity=0.999))
    assert Speedup().plan(plan.model, NoOptions()) is None


def test_masks_of_whole_filters_and_of_their_scales_are_planned_exactly(model: Model) -> None:
    kept = torch.arange(model.architecture.output_channels[0]) > 0
    weight = model.network.get_parameter("layers.0.convolution.weight")
    masks = {"layers.0.convolution.weight": kept[:, None, None, None].expand_as(weight), "layers.0.norm.weight": kept}
    plan = Speedup().plan(model.with_network(model.network, Form.MASKED, masks), NoOptions())
    assert plan.model.architecture.output_channels[0] == len(kept) - 1


def test_a_layer_of_which_nothing_would_be_left_is_named(model: Model) -> None:
    name = "layers.2.convolution.weight"
    nothing = torch.zeros_like(model.network.get_parameter(name), dtype=torch.bool)
    emptied = model.with_network(model.network, Form.MASKED, {name: nothing})
    with pytest.raises(InputError, match=r"would leave nothing: all filters of layers\.2 are masked"):
        Speedup().plan(emptied, NoOptions())
    with pytest.raises(StageError, match=r"would leave nothing: all filters of layers\.2 are masked"):
        Speedup().apply(emptied, NoOptions(), bench())


def test_rounding_that_a_batch_norm_magnifies_is_no_difference_to_speedup() -> None:
    """Layer 1 takes ten thousand off what is ten thousand and a little: float32, in which sums of half as many channels
    are rounded otherwise, keeps three digits of the little."""
    head = (Convolution(8, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))
    model = new_model(
        Architecture("any", (Convolution(256, 3), Convolution(8, 1), *head), ("one", "two", "three"), 64), seed=0
    )
    pruned = Magnitude().apply(model, Pruning(sparsity=0.5, masks="filters"), bench())
    first, second = pruned.network.layers[0], pruned.network.layers[1]
    with torch.no_grad():
        first.norm.bias.add_(10_000 * (first.norm.weight != 0))
        second.norm.running_mean.copy_(second.convolution(first(torch.full((1, 3, 64, 64), 0.5)))[0, :, 32, 32])
    smaller = Speedup().apply(pruned, NoOptions(), bench())
    assert largest_difference(pruned, smaller) < 1e-12
