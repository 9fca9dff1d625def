"""What another library leaves of a network, made again as one."""

import copy

import pytest
import torch
from torch import Tensor, nn

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.detector.narrowing import narrowed_network
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


def test_widths_that_do_not_go_together_are_no_network() -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.25), 0).network
    smaller = narrowed(network)
    smaller.get_submodule("layers.2.convolution").weight = network.get_parameter("layers.2.convolution.weight")
    with pytest.raises(StageError, match="make no network"):
        narrowed_network(smaller, network.architecture)
    with pytest.raises(StageError, match=r"has no tensor 'layers\.0\.convolution\.weight'"):
        narrowed_network(nn.Identity(), network.architecture)
