"""What another library leaves of a network, made again as one."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution, Yolo, build_architecture
from detpress.detector.channels import masks_of_filters
from detpress.detector.layer import Channels, FeatureMap, Layer
from detpress.detector.model import apply_masks, new_model
from detpress.detector.narrowing import narrow, narrowed_network
from detpress.detector.network import Network
from detpress.errors import StageError


def narrowed(network: nn.Module) -> nn.Module:
    """Without the last filter of layer 0 and the input of layer 2 that it gives, by hand."""
    smaller = copy.deepcopy(network)
    first, norm, second = (
        smaller.get_submodule(f"layers.{name}") for name in ("0.convolution", "0.norm", "2.convolution")
    )
    first.weight = nn.Parameter(first.weight[:-1])
    norm.weight, norm.bias = nn.Parameter(norm.weight[:-1]), nn.Parameter(norm.bias[:-1])
    norm.running_mean, norm.running_var = norm.running_mean[:-1], norm.running_var[:-1]
    second.weight = nn.Parameter(second.weight[:, :-1])
    return smaller


def test_a_filter_taken_out_by_hand_is_gone_and_nothing_else_changed(images: Tensor) -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.25), 0).network
    with torch.no_grad():
        for part in ("convolution.weight", "norm.weight", "norm.bias"):
            network.get_parameter(f"layers.0.{part}")[-1] = 0  # it gives nothing, so that the maps must stay
    found = narrowed_network(narrowed(network), network.architecture)
    assert found.architecture.layers[0].filters == network.architecture.layers[0].filters - 1
    with torch.inference_mode():
        for there, expected in zip(found(images), network(images), strict=True):
            torch.testing.assert_close(there, expected, rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Gain(Layer):
    """Multiplies each channel by a number of its own, as a layer of another package may."""

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        return taken[0]

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return nn.Conv2d(taken[0].channels, taken[0].channels, 1, groups=taken[0].channels, bias=False)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"


def test_numbers_that_another_package_keeps_for_each_channel_go_with_it(images: Tensor) -> None:
    head = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))
    network = new_model(Architecture("any", (Convolution(8, 3), Gain(), *head), ("a",), 64), 0).network
    assert isinstance(network, Network)
    kept = torch.arange(8) % 3 > 0
    masked = copy.deepcopy(network)
    apply_masks(masked, masks_of_filters(masked, {0: kept}))
    smaller = narrow(network, {0: kept})
    assert smaller.get_parameter("layers.1.weight").flatten().tolist() == (
        network.get_parameter("layers.1.weight").flatten()[kept].tolist()
    )
    with torch.inference_mode():
        torch.testing.assert_close(smaller(images)[0], masked(images)[0], rtol=0, atol=1e-6)


def test_widths_that_do_not_go_together_are_no_network() -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.25), 0).network
    smaller = narrowed(network)
    smaller.get_submodule("layers.2.convolution").weight = network.get_parameter("layers.2.convolution.weight")
    with pytest.raises(StageError, match="make no network"):
        narrowed_network(smaller, network.architecture)
    with pytest.raises(StageError, match=r"has no tensor 'layers\.0\.convolution\.weight'"):
        narrowed_network(nn.Identity(), network.architecture)
