"""Simulated quantization becomes integers that processors compute right; what integers cannot hold is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Convolution, Yolo
from detpress.detector.input_scale import InputScale
from detpress.detector.network import Network, folded_but
from detpress.encodings.deployment import deployed
from detpress.encodings.int8 import input_scales
from detpress.encodings.simulated import Grid, Simulated
from detpress.errors import InputError

ARCHITECTURE = Architecture(
    "few-layers",
    (
        Convolution(8, size=3, stride=2),
        Convolution(8, size=3),
        Convolution(7, size=1, batch_normalize=False, activation="linear"),
        Yolo(((8.0, 8.0),)),
    ),
    ("cat", "dog"),
    image_size=64,
)
UNSIGNED, SIGNED = Grid(0, 255, 0.02, 100.0), Grid(-127, 127, 0.03, 0.0)


def simulated(layers: dict[int, Simulated], depthwise: bool = False) -> Network:
    first, second, *rest = ARCHITECTURE.layers
    assert isinstance(second, Convolution)
    layer = replace(second, groups=8) if depthwise else second
    architecture = replace(ARCHITECTURE, layers=(first, layer, *rest))
    network = Network(architecture, folded_but(architecture, layers)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dtype == torch.int8:
            tensor.random_(-127, 128, generator=generator)
        elif name.endswith("weight_scale"):
            tensor.fill_(1 / 1024)
        elif name.endswith(("convolution.weight", "bias")):
            tensor.normal_(generator=generator)
    return network


def test_in_the_full_range_codes_and_scales_stay_and_the_maps_are_the_same(images: Tensor) -> None:
    network = simulated({1: Simulated(8, UNSIGNED), 2: Simulated(8, SIGNED)})
    found = deployed(network, images, full_range=True)
    assert input_scales(found) == {1: InputScale(0.02, 100), 2: InputScale(0.03, 127)}
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])
    assert {"layers.0", "layers.1"} <= found.between.keys() | {"layers.0"}
    with torch.inference_mode():
        expected, maps = network(images)[0], found(images)[0]
    signal_to_noise = expected.var() / (expected - maps).square().mean()
    assert float(signal_to_noise) > 1e4, "a value at the half of a step is rounded otherwise here and there"


def test_filters_with_codes_beyond_64_get_coarser_steps_and_the_others_none(images: Tensor) -> None:
    network = simulated({1: Simulated(8, UNSIGNED)})
    codes = network.get_buffer("layers.1.convolution.weight")
    codes.clamp_(-120, 120)
    codes[0].clamp_(-64, 64)
    codes[1, 0] = torch.tensor([[0, 15, 30], [60, -90, 120], [1, -2, 45]])
    found = deployed(network, images)
    narrow, scale = (found.get_buffer(f"layers.1.convolution.{name}") for name in ("weight", "weight_scale"))
    assert torch.equal(narrow[0], codes[0])
    assert narrow[1, 0].tolist() == [[0, 8, 16], [32, -48, 64], [1, -1, 24]]
    assert scale[:2].tolist() == [1 / 1024, 120 / 64 / 1024]
    error = narrow * scale[:, None, None, None] - codes / 1024
    assert float((error.abs() / scale[:, None, None, None]).max()) <= 0.5001, "the nearest of the coarser steps"


def test_codes_of_depthwise_convolutions_stay(images: Tensor) -> None:
    network = simulated({1: Simulated(8, UNSIGNED)}, depthwise=True)
    found = deployed(network, images)
    for name in ("weight", "weight_scale"):
        assert torch.equal(*(one.get_buffer(f"layers.1.convolution.{name}") for one in (network, found)))


def test_a_missing_scale_is_the_range_seen(images: Tensor) -> None:
    found = deployed(simulated({0: Simulated(8, None), 1: Simulated(8, UNSIGNED)}), images)
    high = (images[:10].max() + images[10:].max()) / 2  # 20 images are two batches
    assert input_scales(found)[0].scale == pytest.approx(float(high) / 255)
    assert input_scales(found)[0].zero_point == 0


def test_a_learned_zero_point_is_rounded(images: Tensor) -> None:
    layer = Simulated(8, replace(UNSIGNED, zero_point=99.6))
    assert input_scales(deployed(simulated({1: layer}), images))[1] == InputScale(0.02, 100)


@pytest.mark.parametrize(("learnt", "kept"), [(-0.6, 0), (255.7, 255)])
def test_a_zero_point_learned_just_beyond_the_codes_is_the_first_or_the_last(
    learnt: float, kept: int, images: Tensor
) -> None:
    layer = Simulated(8, replace(UNSIGNED, zero_point=learnt))
    assert input_scales(deployed(simulated({1: layer}), images))[1] == InputScale(0.02, kept)


def test_a_zero_point_far_from_the_codes_is_refused(images: Tensor) -> None:
    layer = Simulated(8, replace(UNSIGNED, zero_point=-40.0))
    with pytest.raises(
        InputError, match=r"^layers\.1: the zero point of its inputs, -40, is none of the codes 0 to 255"
    ):
        deployed(simulated({1: layer}), images)


@pytest.mark.parametrize(
    "layer",
    [Simulated(2, UNSIGNED), Simulated(1, Grid(0, 1, 2.0, 0.5)), Simulated(8, Grid(0, 15, 0.2, 0.0))],
)
def test_fewer_bits_are_refused(layer: Simulated, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"layers\.1: simulated at [124] bits; int8 executes 8"):
        deployed(simulated({1: layer}), images)


def test_weights_with_zero_points_are_refused(images: Tensor) -> None:
    network = simulated({1: Simulated(8, UNSIGNED)})
    network.get_buffer("layers.1.convolution.weight_zero_point").fill_(3)
    with pytest.raises(InputError, match=r"layers\.1: its weights have zero points"):
        deployed(network, images)
