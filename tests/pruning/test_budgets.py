"""Cuts to budgets: how much is left, what is left, and that it gives the same maps."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.channels import masks_of_filters, without_filters
from detpress.detector.coupling import Group, by_convolution
from detpress.detector.kinds import Convolution, Route, Shortcut, Yolo
from detpress.detector.model import Model, apply_masks
from detpress.detector.network import Network
from detpress.detector.removal import Block, residual_blocks, without_blocks
from detpress.errors import InputError
from detpress.measure.size import macs, parameter_count
from detpress.pruning.budgets import Budget, Cut, Size, cut_to, size_of
from detpress.pruning.coupled_tensors import coupled_tensors, importance
from detpress.pruning.cutting import carry_out
from detpress.pruning.filter_groups import prunable_groups

HEAD = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))


def residual(*, inner: int = 4) -> Architecture:
    """Two blocks: layers 1 to 3, and 4 to 6."""
    block = (Convolution(inner, 1), Convolution(8, 3))
    layers = (Convolution(8, 3), *block, Shortcut(0), *block, Shortcut(3), Route((6, 0)), Convolution(8, 1), *HEAD)
    return Architecture("any", layers, ("cell",), 64)


def of_trained(model: Model) -> dict[Group, Tensor]:
    architecture = model.architecture
    return importance(model.network, coupled_tensors(architecture, prunable_groups(architecture)))


def scored(architecture: Architecture) -> dict[Group, Tensor]:
    """Every filter's importance is another."""
    generator = torch.Generator().manual_seed(0)
    channels = architecture.output_channels
    return {group: torch.rand(channels[group[0]], generator=generator) for group in prunable_groups(architecture)}


@pytest.fixture(scope="module")
def wide() -> Architecture:
    return build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.25)


def test_a_size_is_what_the_layer_list_counts(wide: Architecture) -> None:
    assert size_of(wide) == Size(parameter_count(Network(wide)), macs(wide))


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("what", ["parameters", "macs"])
def test_a_budget_is_met_and_with_the_last_filter_back_it_is_not(what: str, share: float, wide: Architecture) -> None:
    scores = scored(wide)
    budget = Budget(**{what: round((1 - share) * getattr(size_of(wide), what))})
    cut = cut_to(wide, scores, budget, floor=3)
    assert budget.met_by(size_of(cut.architecture))
    assert all(int(kept.sum()) >= 3 for kept in cut.kept.values())
    removed = {group[0]: int((~kept).sum()) for group, kept in cut.kept.items()}
    assert size_of(without_filters(wide, removed)) == size_of(cut.architecture)
    last = max(cut.kept, key=lambda group: float(scores[group][~cut.kept[group]].max()))
    assert not budget.met_by(size_of(without_filters(wide, removed | {last[0]: removed[last[0]] - 1})))


def test_two_budgets_are_met_together(wide: Architecture) -> None:
    """Each nearly used up; the plain ranking leaves one of them far from it."""
    whole, scores = size_of(wide), scored(wide)
    budget = Budget(whole.parameters // 10, whole.macs // 4)
    left = size_of(cut_to(wide, scores, budget, floor=3).architecture)
    assert budget.met_by(left)
    assert left.parameters > 0.9 * whole.parameters / 10
    assert left.macs > 0.9 * whole.macs / 4
    plain = size_of(cut_to(wide, scores, Budget(parameters=budget.parameters), floor=3).architecture)
    assert not 0.9 * whole.macs / 4 < plain.macs < whole.macs / 4


def test_the_least_important_of_all_groups_go_first() -> None:
    architecture = residual()
    scores = {group: torch.ones(architecture.output_channels[group[0]]) for group in prunable_groups(architecture)}
    assert list(scores) == [(0, 2, 5), (1,), (4,), (8,)]
    scores[(1,)][2] = 0.1
    scores[(0, 2, 5)][7] = 0.2
    scores[(8,)][0] = 0.3
    whole = size_of(architecture)
    first = cut_to(architecture, scores, Budget(parameters=whole.parameters - 1), floor=1)
    assert {group: kept.tolist() for group, kept in first.kept.items()} == {(1,): [True, True, False, True]}
    second = cut_to(architecture, scores, Budget(parameters=size_of(first.architecture).parameters - 1), floor=1)
    assert set(second.kept) == {(1,), (0, 2, 5)}
    assert not second.kept[(0, 2, 5)][7]


def test_a_block_goes_whole_when_its_inside_is_at_the_floor() -> None:
    architecture = residual()
    assert residual_blocks(architecture) == [Block(0, 3), Block(3, 6)]
    scores = {group: torch.ones(architecture.output_channels[group[0]]) for group in prunable_groups(architecture)}
    scores[(4,)][:2] = 0.1
    both = cut_to(architecture, scores, Budget(macs=size_of(architecture).macs - 1), floor=3)
    assert both.blocks == (Block(3, 6),), "one of its four filters went, so that three are left"
    left = both.architecture
    assert [type(layer).__name__ for layer in left.layers] == [
        "Convolution", "Convolution", "Convolution", "Shortcut", "Route", "Convolution", "Convolution", "Yolo"
    ]  # fmt: skip
    assert left.layers[4].refers_to == (3, 0)
    assert left.names[3:6] == ("layers.3", "layers.7", "layers.8")


def test_both_blocks_of_a_stage_go_and_what_was_added_to_them_stays() -> None:
    architecture = residual()
    left = without_blocks(architecture, residual_blocks(architecture)).architecture
    assert [type(layer).__name__ for layer in left.layers] == [
        "Convolution",
        "Route",
        "Convolution",
        "Convolution",
        "Yolo",
    ]
    assert left.layers[1].refers_to == (0, 0)


def test_no_block_is_one_that_gives_something_to_layers_behind_it() -> None:
    layers = list(residual().layers)
    layers[7] = Route((6, 4))
    assert residual_blocks(replace(residual(), layers=tuple(layers))) == [Block(0, 3)]


def masks_of_cut(network: Network, cut: Cut) -> dict[str, Tensor]:
    """Parameter name -> bool of its shape. With these at zero the network gives what it gives after the cut.

    Of a block that goes, everything inside is masked: what it would add is zero.
    """
    masks = masks_of_filters(network, by_convolution(network.architecture, cut.kept))
    for name, parameter in network.named_parameters():
        if any(int(name.split(".")[1]) in block.inner for block in cut.blocks):
            masks[name] = torch.zeros_like(parameter, dtype=torch.bool)
    return masks


def test_what_is_left_gives_the_maps_of_the_masked_network(dense_model: Model, images: Tensor) -> None:
    """A whole YOLOv3, blocks gone among it."""
    whole = size_of(dense_model.architecture)
    cut = cut_to(dense_model.architecture, of_trained(dense_model), Budget(parameters=whole.parameters // 4), floor=2)
    assert cut.blocks
    masked = copy.deepcopy(dense_model.network)
    apply_masks(masked, masks_of_cut(masked, cut))
    assert isinstance(dense_model.network, Network)
    smaller = carry_out(dense_model.network, cut)
    assert smaller.architecture == cut.architecture
    with torch.inference_mode():
        for there, expected in zip(smaller(images[:4]), masked(images[:4]), strict=True):
            torch.testing.assert_close(there, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
            assert float(expected.std()) > 0


def test_what_cannot_be_reached_says_what_would_stay() -> None:
    architecture = residual()
    with pytest.raises(InputError, match=r"^macs: 10 are asked for, and [\d,]+ stay where each layer keeps 3 filters"):
        cut_to(architecture, scored(architecture), Budget(macs=10), floor=3)
