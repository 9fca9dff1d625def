"""Filters that hang together in other ways than by addition: which do, told by hand; and that they leave no trace."""

import copy
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.channels import kept_filters, masks_of_filters
from detpress.detector.coupling import Group, by_convolution, coupled_filters
from detpress.detector.darknet import read_model, write_model
from detpress.detector.kinds import (
    AveragePool,
    Convolution,
    MaxPool,
    Reorg,
    Route,
    Sam,
    ScaleChannels,
    Shortcut,
    Upsample,
    Yolo,
)
from detpress.detector.layer import Layer
from detpress.detector.model import apply_masks, new_model
from detpress.detector.narrowing import narrow
from detpress.detector.network import Network

HEAD = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network_of(*layers: Layer) -> Network:
    """With BatchNorms like trained ones."""
    network = new_model(Architecture("any", (*layers, *HEAD), ("cell",), 32), seed=0).network
    assert isinstance(network, Network)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "norm.bias")):
            tensor.normal_(generator=generator)
        elif name.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return network.requires_grad_(False)


def groups_of(*layers: Layer) -> dict[Group, list[list[int]]]:
    """Without the head's."""
    coupled = coupled_filters(network_of(*layers).architecture)
    return {group: filters.tolist() for group, filters in coupled.items() if len(layers) not in group}


def alone(filters: int) -> list[list[int]]:
    return [[k] for k in range(filters)]


def test_of_a_convolution_with_few_wide_parts_each_loses_the_same_filters_and_inputs() -> None:
    assert groups_of(Convolution(8, 3), Convolution(12, 3, groups=2), Convolution(4, 1)) == {
        (0, 0): [[0, 4], [1, 5], [2, 6], [3, 7]],
        (1, 1): [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]],
        (2,): alone(4),
    }


def test_of_a_convolution_with_many_narrow_parts_whole_parts_go_with_what_they_take() -> None:
    assert groups_of(Convolution(8, 1), Convolution(8, 3, groups=4), Convolution(3, 1)) == {
        (0, 0, 1, 1): [[0, 1, 0, 1], [2, 3, 2, 3], [4, 5, 4, 5], [6, 7, 6, 7]],
        (2,): alone(3),
    }
    assert groups_of(Convolution(3, 1), Convolution(6, 3, groups=3)) == {(0, 1, 1): [[0, 0, 1], [1, 2, 3], [2, 4, 5]]}


def test_a_part_of_a_route_has_the_same_channels_as_the_other_parts() -> None:
    assert groups_of(Convolution(6, 3), Route((0,), 3, 1), Convolution(4, 3), Route((2, 0))) == {
        (0, 0, 0): [[0, 2, 4], [1, 3, 5]],
        (2,): alone(4),
    }


def test_of_unequal_shortcuts_what_is_added_goes_together_and_what_is_left_over_alone() -> None:
    assert groups_of(Convolution(2, 3), Convolution(4, 3), Shortcut(0)) == {(0, 1): [[0, 0], [1, 1]], (1,): [[2], [3]]}
    assert groups_of(Convolution(4, 3), Convolution(2, 3), Shortcut(0)) == {(0,): [[2], [3]], (0, 1): [[0, 0], [1, 1]]}


def test_maps_that_were_concatenated_in_different_ways_go_together_channel_by_channel() -> None:
    assert groups_of(Convolution(4, 3), Convolution(2, 1), Route((1, 1)), Shortcut(0)) == {
        (0, 0, 1): [[0, 2, 0], [1, 3, 1]]
    }
    assert groups_of(Convolution(3, 3), Convolution(2, 1), Route((0, 1)), Convolution(5, 1, groups=5)) == {
        (0, 3): [[0, 0], [1, 1], [2, 2]],
        (1, 3): [[0, 3], [1, 4]],
    }


def test_spatial_attention_goes_with_what_it_is_multiplied_by() -> None:
    attended = (Convolution(4, 3), Convolution(4, 1, activation="logistic"), Sam(0), Convolution(3, 1))
    assert groups_of(*attended) == {(0, 1): [[k, k] for k in range(4)], (3,): alone(3)}


def test_squares_of_pixels_that_become_channels_stay_whole() -> None:
    assert groups_of(Convolution(3, 3), Reorg(), Convolution(4, 1)) == {(0,): alone(3), (2,): alone(4)}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((Convolution(3, 1, groups=3), Convolution(4, 1)), {(1,)}),
        ((Convolution(4, 1, activation="logistic"), Convolution(8, 3, groups=2), Convolution(4, 1)), {(1, 1), (2,)}),
        ((Convolution(4, 1, activation="logistic"), Route((0,), 2), Convolution(4, 1)), {(2,)}),
    ],
    ids=["of the images", "zero becomes a half", "a part of a half"],
)
def test_what_cannot_go_stays(layers: tuple[Layer, ...], expected: set[Group]) -> None:
    assert set(groups_of(*layers)) == expected


def some_units(network: Network, seed: int) -> dict[int, Tensor]:
    """Convolution's layer number -> the filters left where units go by chance, some of each group, and never all."""
    generator, heads = torch.Generator().manual_seed(seed), set(network.architecture.heads)
    kept = {}
    for group, filters in coupled_filters(network.architecture).items():
        if heads.isdisjoint(group):
            kept[group] = torch.rand(len(filters), generator=generator) > 0.5
            kept[group][-1] = False
            kept[group][0] = True
    return by_convolution(network.architecture, kept)


def masked(network: Network, kept: dict[int, Tensor]) -> tuple[Network, dict[str, Tensor]]:
    found = copy.deepcopy(network)
    masks = masks_of_filters(found, kept)
    apply_masks(found, masks)
    return found, masks


def assert_same_maps(one: Network, other: Network) -> None:
    with torch.inference_mode():
        for there, expected in zip(one(IMAGES), other(IMAGES), strict=True):
            torch.testing.assert_close(there, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
            assert float(expected.std()) > 0


EVERYTHING = (
    Convolution(8, 3, 2),
    Convolution(8, 3, groups=4),  # whole parts
    Route((1,), 2, 1),
    Convolution(4, 3, activation="mish"),
    Route((3, 2)),
    Convolution(12, 1),
    Convolution(12, 3, groups=2, activation="relu"),  # some of each part
    Convolution(16, 1, activation="linear"),
    Shortcut(6, activation="leaky"),  # 12 of 16
    Convolution(16, 1, activation="logistic"),
    Sam(8),
    AveragePool(),
    Convolution(4, 1, activation="relu6"),
    Convolution(16, 1, activation="logistic"),
    ScaleChannels(10),
    Convolution(6, 1),
    Convolution(12, 3, groups=6),  # two filters a channel
    MaxPool(2, 2),
    Reorg(),
    Upsample(4),
    Route((19, 5)),
    Shortcut(14),  # 16 of 60
)


def test_a_network_with_all_of_it_gives_what_the_masked_one_gives_and_is_one_that_darknet_reads(tmp_path: Path) -> None:
    network = network_of(*EVERYTHING)
    kept = some_units(network, seed=0)
    convolutions = {i for i, layer in enumerate(EVERYTHING) if isinstance(layer, Convolution)}
    assert set(kept) == convolutions
    zeros, masks = masked(network, kept)
    found = kept_filters(network.architecture, masks)
    assert all(torch.equal(found[i], kept[i]) for i in convolutions | set(found))
    smaller = narrow(network, kept)
    assert_same_maps(smaller, zeros)
    write_model(smaller, tmp_path / "a.cfg", tmp_path / "a.weights")
    again = read_model(tmp_path / "a.cfg", tmp_path / "a.weights", ["cell"]).network
    assert isinstance(again, Network)
    assert again.architecture.output_channels == smaller.architecture.output_channels
    assert_same_maps(again, smaller)


def test_a_unit_of_which_one_filter_is_not_masked_stays_whole() -> None:
    network = network_of(*EVERYTHING)
    kept = some_units(network, seed=0)
    kept[0] = torch.ones(8, dtype=torch.bool)
    _, masks = masked(network, kept)
    assert {0, 1}.isdisjoint(kept_filters(network.architecture, masks))


def any_layers(draw: random.Random) -> list[Layer]:
    """A dozen layers, each of a kind that fits what is before it."""
    layers: list[Layer] = [Convolution(draw.choice([4, 8, 12]), 3, activation=draw.choice(["leaky", "logistic"]))]
    while len(layers) < 12:
        maps = Architecture("any", (*layers, *HEAD), ("cell",), 32).output_maps
        last, other = len(layers) - 1, draw.randrange(len(layers))
        channels = maps[last].channels
        divisors = [d for d in range(1, channels + 1) if channels % d == 0]
        match draw.choice(["made", "grouped", "depthwise", "route", "part", "shortcut", "multiplied"]):
            case "made":
                activation = draw.choice(["leaky", "relu", "logistic", "mish"])
                layers.append(Convolution(draw.choice([3, 6, 8]), 1, activation=activation))
            case "grouped":
                groups = draw.choice(divisors)
                layers.append(Convolution(groups * draw.choice([1, 2, 6]), 3, groups=groups))
            case "depthwise":
                layers.append(Convolution(channels, 3, groups=channels))
            case "route" if maps[last].channels + maps[other].channels <= 64:
                layers.append(Route((last, other)))
            case "part":
                groups = draw.choice(divisors)
                layers.append(Route((last,), groups, draw.randrange(groups)))
            case "shortcut" if other < last:
                layers.append(Shortcut(other, draw.choice(["linear", "leaky"])))
            case "multiplied" if other < last and maps[other] == maps[last]:
                layers.append(Sam(other))
    return layers


@pytest.mark.parametrize("seed", range(25))
def test_whatever_the_layers_what_goes_leaves_no_trace(seed: int) -> None:
    network = network_of(*any_layers(random.Random(seed)))
    kept = some_units(network, seed)
    zeros, _ = masked(network, kept)
    assert_same_maps(narrow(network, kept), zeros)
