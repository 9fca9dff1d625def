"""Groups of filters, and what is left without some, read off layer lists."""

import pytest
import torch

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.channels import (
    masks_of_filters,
    removable_filters,
    stored_parameters,
    without_filters,
)
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.kinds import AveragePool, Convolution, Route, ScaleChannels, Shortcut, Yolo
from detpress.detector.layer import Layer
from detpress.detector.model import apply_masks
from detpress.detector.network import Network

HEAD = (Convolution(18, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10), (20, 20), (30, 30))))


def network_of(*layers: Layer) -> Architecture:
    return Architecture("yolov3", (*layers, *HEAD), ("cell",), 64)


def test_what_is_added_is_one_group_and_what_is_concatenated_is_not() -> None:
    architecture = network_of(
        Convolution(8, 3), Convolution(4, 1), Convolution(8, 3), Shortcut(0), Convolution(5, 1), Route((4, 3))
    )
    assert coupled_convolutions(architecture) == [(0, 2), (1,), (4,), (6,)]


def test_shortcuts_between_concatenations_of_the_same_parts_couple_part_by_part() -> None:
    architecture = network_of(
        Convolution(8, 3),
        Convolution(4, 1),
        Route((0, 1)),
        Convolution(8, 1),
        Convolution(4, 1),
        Route((3, 4)),
        Shortcut(2),
    )
    assert coupled_convolutions(architecture) == [(0, 3), (1, 4), (7,)]


def test_darknet_53_has_one_group_a_residual_stage() -> None:
    groups = coupled_convolutions(build_architecture("yolov3", ["cell"], 416))
    assert [len(group) for group in groups if len(group) > 1] == [2, 3, 9, 9, 5]


def test_a_depthwise_convolution_loses_the_channels_that_it_takes() -> None:
    separable = (Convolution(8, 3), Convolution(8, 3, groups=8), Convolution(6, 1))
    assert coupled_convolutions(network_of(*separable)) == [(0, 1), (2,), (3,)]
    narrower = without_filters(network_of(*separable), {0: 3, 1: 3})
    assert narrower.layers[:2] == (Convolution(5, 3), Convolution(5, 3, groups=5))


def test_squeeze_and_excitation_loses_what_it_scales() -> None:
    excited = (
        Convolution(8, 3),
        AveragePool(),
        Convolution(2, 1, activation="relu"),
        Convolution(8, 1, activation="logistic"),  # half of its channel where its filter is zero, but times zero
        ScaleChannels(0),
    )
    assert coupled_convolutions(network_of(*excited)) == [(0, 3), (2,), (5,)]


@pytest.mark.parametrize(
    ("layers", "groups"),
    [
        ((Convolution(8, 3), Convolution(8, 3, groups=2), Convolution(4, 1)), [(2,), (3,)]),
        ((Convolution(8, 3), Convolution(4, 1), Route((1, 1)), Shortcut(0)), [(4,)]),
        ((Convolution(8, 3), Convolution(4, 1, activation="logistic"), Convolution(5, 1)), [(0,), (2,), (3,)]),
        ((Convolution(3, 1, groups=3), Convolution(4, 1)), [(1,), (2,)]),
    ],
    ids=["grouped", "torn", "zero becomes a half", "of the images"],
)
def test_what_hangs_together_in_other_ways_is_no_plain_group(
    layers: tuple[Layer, ...], groups: list[tuple[int, ...]]
) -> None:
    assert coupled_convolutions(network_of(*layers)) == groups


def test_a_masked_filter_gives_exactly_zero() -> None:
    architecture = network_of(Convolution(4, 3), Convolution(4, 1, batch_normalize=False))
    network = Network(architecture).eval()
    network.layers[0].norm.running_mean.fill_(3.0)
    kept = torch.tensor([True, False, True, False])
    apply_masks(network, masks_of_filters(network, {0: kept, 1: ~kept}))
    first = network.layers[0](torch.rand(2, 3, 64, 64))
    second = network.layers[1](first)
    assert first[:, ~kept].eq(0).all()
    assert second[:, kept].eq(0).all()
    assert first[:, kept].ne(0).any()


def test_only_what_the_whole_group_masks_can_be_removed() -> None:
    architecture = network_of(Convolution(4, 3), Convolution(2, 1), Convolution(4, 3), Shortcut(0))
    masks = masks_of_filters(
        Network(architecture),
        {
            0: torch.tensor([False, False, False, True]),
            1: torch.tensor([False, True]),
            2: torch.tensor([True, False, False, True]),
        },
    )
    assert removable_filters(architecture, masks) == {0: 2, 1: 1, 2: 2}
    del masks["layers.2.convolution.weight"]
    assert removable_filters(architecture, masks) == {1: 1}


def test_heads_keep_their_filters() -> None:
    architecture = network_of(Convolution(4, 3))
    masks = masks_of_filters(Network(architecture), {0: torch.arange(4) > 0, 1: torch.arange(18) > 5})
    assert removable_filters(architecture, masks) == {0: 1}


def test_counts_the_parameters_of_a_narrower_network() -> None:
    architecture = network_of(Convolution(8, 3), Convolution(4, 1))
    assert stored_parameters(architecture) == (3 * 8 * 9 + 16) + (8 * 4 + 8) + (4 * 18 + 18)
    narrower = without_filters(architecture, {0: 3})
    assert stored_parameters(narrower) == (3 * 5 * 9 + 10) + (5 * 4 + 8) + (4 * 18 + 18)
