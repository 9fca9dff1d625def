"""The int8 network: the arithmetic of integers, near the float network, and rebuilt where no engine can be imported."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from without_engines import rebuilt_maps

from detpress.detector.architecture import Convolution
from detpress.detector.input_scale import InputScale
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.encodings.int8 import LARGEST_IN_PAIRS, Int8, Int8Convolution
from detpress.errors import InputError


def signal_to_noise(signal: Tensor, other: Tensor) -> float:
    """In decibels, of the part of a raw map that differs from place to place and image to image."""
    varying = signal - signal.mean(dim=(0, 2, 3), keepdim=True)
    return float(10 * torch.log10(varying.square().sum() / (signal - other).square().sum()))


def test_a_quantized_convolution_computes_what_integers_give() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = Int8(InputScale(0.02, 100)).module(nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2))
    convolution.weight = torch.randint(-128, 128, (4, 3, 3, 3), dtype=torch.int8, generator=generator)
    convolution.weight_scale = 0.001 + torch.rand(4, generator=generator)
    convolution.bias = torch.randn(4, generator=generator)
    x = 2 * torch.randn(2, 6, 9, 9, generator=generator)
    q = (torch.round(x.double() / 0.02) + 100).clamp(0, 255).long()
    assert (q == 0).any(), "the input reaches beyond the range"
    assert (q == 255).any(), "the input reaches beyond the range"
    sums = functional.conv2d(q - 100, convolution.weight.long(), stride=2, padding=1, groups=2)
    expected = 0.02 * convolution.weight_scale[:, None, None] * sums + convolution.bias[:, None, None]
    torch.testing.assert_close(convolution(x), expected.float(), rtol=1e-5, atol=1e-4)


def test_every_convolution_holds_int8_weights_of_one_scale_a_filter(int8_model: Model) -> None:
    for i, layer in enumerate(int8_model.architecture.layers):
        if isinstance(layer, Convolution):
            block = int8_model.network.get_submodule(f"layers.{i}.convolution")
            assert isinstance(block, Int8Convolution)
            assert (block.weight.dtype, block.weight_scale.shape) == (torch.int8, (layer.filters,))
            largest = block.weight.abs().flatten(1).amax(dim=1)
            assert (largest == LARGEST_IN_PAIRS).all(), "the scale leaves no part of the range unused"


def test_raw_maps_stay_near_those_of_the_float_network(dense_model: Model, int8_model: Model, images: Tensor) -> None:
    with torch.inference_mode():
        for one, other in zip(dense_model.network(images), int8_model.network(images), strict=True):
            assert signal_to_noise(one, other) > 25


def test_a_bundle_gives_the_same_bits_where_no_engine_can_be_imported(
    int8_model: Model, images: Tensor, tmp_path: Path
) -> None:
    rebuilt = rebuilt_maps(int8_model, images, tmp_path)
    with torch.inference_mode():
        for one, other in zip(int8_model.network(images), rebuilt, strict=True):
            assert torch.equal(one, other)


def test_scales_come_back_from_json_bit_for_bit(int8_model: Model) -> None:
    assert isinstance(int8_model.network, Network)
    for encoding in int8_model.network.encodings.values():
        assert Int8.from_dict("here", json.loads(json.dumps(encoding.as_dict()))) == encoding


@pytest.mark.parametrize(
    "description",
    [{}, {"input": []}, {"input": {"scale": 0.1}}, {"input": {"scale": -0.1, "zero_point": 0}},
     {"input": {"scale": float("nan"), "zero_point": 0}}, {"input": {"scale": 0.1, "zero_point": 256}}],
)  # fmt: skip
def test_a_description_of_no_quantization_is_refused(description: dict) -> None:
    with pytest.raises(InputError, match=r"^here: "):
        Int8.from_dict("here", description)


def test_only_convolutions_can_be_quantized(dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"layers\.4: encoded as Int8, but not a convolution"):
        Network(dense_model.architecture, {4: Int8(InputScale(0.1, 0))})
