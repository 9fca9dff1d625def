"""Weights and inputs of one bit: the papers' formulas, and that bits come back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from detpress.detector.geometry import Geometry
from detpress.encodings.binary import Binary, BinaryInputs, input_scales, packed_signs, unpacked_signs
from detpress.training.binary_weights import (
    How,
    ScaledSigns,
    binarize,
    binary_input,
    centred,
    chance_of_one,
    drawn_signs,
    signs,
    start_of,
    straight_through,
    update_scale,
)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.integers(0, 2**32))
def test_bits_come_back(f: int, c: int, k: int, seed: int) -> None:
    weight = torch.randn(f, c, k, k, generator=torch.Generator().manual_seed(seed))
    stored = packed_signs(weight)
    assert stored.nbytes == -(-f * c * k * k // 8)
    assert torch.equal(unpacked_signs(stored, weight.shape), signs(weight))


def test_the_bits_are_a_32nd_of_the_float_weights_and_a_filter_has_a_number() -> None:
    weight = drawn(16, 8, 3, 3)
    tensors = {"signs": packed_signs(weight), "scale": torch.arange(1.0, 17), "bias": torch.zeros(16)}
    assert 32 * tensors["signs"].nbytes == weight.nbytes
    found = Binary().weight(tensors, weight.shape)
    assert torch.equal(found, signs(weight) * torch.arange(1.0, 17)[:, None, None, None])
    assert packed_signs(torch.tensor([1.0, -1, -1, 2, 0, 0, 0, 3])).tolist() == [0b10010001]


def test_the_chance_of_one_and_what_is_drawn_by_it() -> None:
    weight = torch.tensor([-3.0, -1, -0.5, 0, 0.5, 1, 3])
    assert chance_of_one(weight).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    torch.manual_seed(0)
    share = (drawn_signs(torch.full((20_000,), 0.5)) > 0).double().mean()
    assert float(share) == pytest.approx(0.75, abs=0.01)
    assert drawn_signs(torch.tensor([-1.0, 1.0])).tolist() == [-1, 1]


def test_gradients_go_straight_to_real_weights_and_to_inputs_up_to_1() -> None:
    real = torch.tensor([-2.0, -0.3, 0.0, 0.4], requires_grad=True)
    found = straight_through(signs(real), real)
    assert found.tolist() == [-1, -1, -1, 1]
    found.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert real.grad.tolist() == [1, 2, 3, 4]
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5], requires_grad=True)
    given_signs = binary_input(x)
    assert given_signs.tolist() == [-1, -1, 1, 1]
    given_signs.backward(torch.ones(4))
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_a_step_is_scaled_by_glorots_inverse() -> None:
    assert update_scale(torch.Size((64, 32, 3, 3))) == pytest.approx(((32 * 9 + 64 * 9) / 1.5) ** 0.5)


def test_xnor_nets_gradient() -> None:
    """Two filters of 2 channels: n = 2, c = 2, alpha = 0.75 and 1.5; (alpha 1[|w| < 1] + 1/2) / 2."""
    real = torch.tensor([[0.5, -1.0], [-0.9, 2.1]])[..., None, None].requires_grad_(True)
    found = ScaledSigns.apply(real)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.75, -0.75, -1.5, 1.5]))
    found.sum().backward()
    torch.testing.assert_close(real.grad.flatten(), torch.tensor([0.625, 0.25, 1.0, 0.25]))
    assert centred(torch.tensor([[3.0, -1.0]])[..., None, None]).flatten().tolist() == [1, -1]


def test_trained_weights_are_spread_as_binaryconnects_begin() -> None:
    begun = start_of(0.01 * drawn(20, 20, 3, 3))
    assert torch.equal(signs(begun), signs(drawn(20, 20, 3, 3)))
    assert float(begun.abs().max()) == 1
    assert 0.4 < float(begun.abs().mean()) < 0.5


@pytest.mark.parametrize("scaled", [False, True])
def test_what_is_trained_is_what_the_encoding_computes(scaled: bool) -> None:
    layer, network = nn.Module(), nn.Module()
    layer.convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    network.layers = nn.ModuleList([layer])
    binarize(network, 0, How("xnor", inputs="scaled_signs" if scaled else "signs"))
    weight = layer.convolution.weight.detach()
    encoded = BinaryInputs(scaled).module(nn.Conv2d(4, 6, 3, stride=2, padding=1))
    tensors = {"signs": packed_signs(weight), "scale": weight.abs().amax((1, 2, 3)), "bias": torch.zeros(6)}
    encoded.load_state_dict(tensors)
    x = drawn(2, 4, 9, 9)
    torch.testing.assert_close(encoded(x), layer.convolution(x), rtol=1e-5, atol=1e-5)
    encoded.load_state_dict(tensors | {"bias": torch.ones(6)})
    torch.testing.assert_close(encoded(x), layer.convolution(x) + 1, rtol=1e-5, atol=1e-5)
    means = functional.avg_pool2d(x.abs().mean(1, keepdim=True), 3, 2, 1)
    torch.testing.assert_close(input_scales(x, Geometry.of(layer.convolution)), means)
