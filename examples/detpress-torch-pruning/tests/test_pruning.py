"""Torch-Pruning's choice of filters, on networks where it is known; and the contract with detpress."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch_pruning as tp
from detpress.api import (
    InputError,
    Model,
    TrainingConfig,
    apply_masks,
    build_architecture,
    by_convolution,
    coupled_filters,
    masks_of_filters,
    narrow,
    new_model,
)
from detpress.testing import PluginCheck, checks_of

from detpress_torch_pruning.engine import pruned, size
from detpress_torch_pruning.growing import GrowingRegularisation
from detpress_torch_pruning.options import PruningOptions

HALF = PruningOptions(sparsity=0.5)


def detector(arch: str) -> Model:
    return new_model(build_architecture(arch, ("a", "b"), 64, 0.125), seed=0)


@pytest.mark.parametrize("arch", ["yolov3-tiny", "yolov3", "mobile-yolov3"])
def test_filters_that_are_zero_go_and_the_maps_stay(arch: str) -> None:
    """Every other filter is held at zero: half of all, which must be what goes, as detpress itself takes it out."""
    model = detector(arch)
    groups = coupled_filters(model.architecture)
    heads = set(model.architecture.heads)
    every_other = {
        group: torch.arange(len(units)) % 2 == 1 for group, units in groups.items() if not heads & set(group)
    }
    kept = by_convolution(model.architecture, every_other)
    network = model.own_network
    apply_masks(network, masks_of_filters(network, kept))
    found = pruned(network, tp.importance.GroupMagnitudeImportance(), HALF)
    expected = narrow(network, kept)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert found.architecture == expected.architecture
    with torch.no_grad():
        for one, other in zip(found(images), expected(images), strict=True):
            assert torch.equal(one, other)


def test_a_share_of_parameters_is_met_and_hardly_exceeded() -> None:
    network = detector("yolov3-tiny").own_network
    found = pruned(network, tp.importance.GroupMagnitudeImportance(), PruningOptions(parameters=0.4))
    assert 0.57 < size(found) / size(network) <= 0.6


def test_ranked_globally_no_layer_loses_more_than_it_may() -> None:
    network = detector("yolov3-tiny").own_network
    with torch.no_grad():
        for i in range(0, 8, 2):
            network.get_parameter(f"layers.{i}.norm.weight").fill_(2)
        scales = network.get_parameter("layers.8.norm.weight")
        scales.copy_(torch.arange(1, len(scales) + 1) / 1000)  # the least of all, and the first the least of them
    config = PruningOptions(sparsity=0.05, ranking="global", at_most=0.25)
    found = pruned(network, tp.importance.BNScaleImportance(normalizer=None), config)
    torch.testing.assert_close(found.get_parameter("layers.8.norm.weight"), scales[len(scales) // 4 :])


def test_a_share_that_is_out_of_reach_is_refused() -> None:
    with pytest.raises(InputError, match=r"^parameters: 0\.99 cannot be reached; 0\.\d+ go at 0\.5 of a layer$"):
        pruned(
            detector("yolov3-tiny").own_network,
            tp.importance.GroupMagnitudeImportance(),
            PruningOptions(parameters=0.99, at_most=0.5),
        )


def test_growing_regularisation_adds_its_strength_times_the_weights_and_grows_for_the_least_important() -> None:
    model = detector("yolov3-tiny")
    network = model.own_network.requires_grad_(True)
    drawn = GrowingRegularisation(strength=0.1, growth=0.5)
    start: Any = SimpleNamespace(network=network, steps=1, config=TrainingConfig(epochs=1))
    drawn.prepare(start)
    step: Any = SimpleNamespace(network=network, number=0)
    weight = network.get_parameter("layers.0.convolution.weight")
    [gradient] = torch.autograd.grad(drawn.terms(step)["growing"], weight)
    torch.testing.assert_close(gradient, 0.1 * weight)
    drawn.after_step(step)
    [gradient] = torch.autograd.grad(drawn.terms(step)["growing"], weight)
    factors = (gradient / weight).flatten(1).mean(1)
    torch.testing.assert_close(factors.min(), torch.tensor(0.1))
    torch.testing.assert_close(factors.max(), torch.tensor(0.6))
    again = GrowingRegularisation(strength=0.1, growth=0.5)
    again.prepare(start)
    again.load_state(drawn.state())
    [resumed] = torch.autograd.grad(again.terms(step)["growing"], weight)
    assert torch.equal(resumed, gradient)


TRIED: Mapping[str, dict[str, Any]] = {
    "magnitude": {"sparsity": 0.5},
    "bn_scale": {"sparsity": 0.5},  # of networks never trained; ranked globally, their scales are all the same
    "taylor": {"sparsity": 0.5, "images": 8},
    "hessian": {"sparsity": 0.5, "images": 8},
    "growing_reg": {"sparsity": 0.5, "epochs": 2},
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, options in TRIED.items()
        for check in checks_of(f"torch_pruning.{name}", options)
    ],
)
def test_each_plugin_keeps_its_promises(check: PluginCheck) -> None:
    check()
