"""Weight-only quantization of convolutions: the real INC on their matrices, and what becomes of it in a bundle."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.adapters.inc_weight_only import (
    Algorithm,
    Codes,
    _OneLinear,
    _patches,
    gptq,
    half_quadratic,
    pack_weights,
    round_to_nearest,
)
from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo
from detpress.detector.encoding import UnpackedConvolution
from detpress.detector.folding import folded_weight
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.encodings.bundle import bundle_bytes, load_bundle, save_bundle
from detpress.encodings.packed import Bits, Packed, decode
from detpress.errors import StageError
from detpress.measure.size import nonzero_parameters, parameter_count, storage_bytes

LOG = logging.getLogger("tests.inc_weight_only")
LOG.addHandler(logging.NullHandler())


def matrix(filters: int = 6, columns: int = 45) -> Tensor:
    """Columns are no multiple of a group of 32, and odd."""
    return 0.1 * torch.randn(filters, columns, generator=torch.Generator().manual_seed(0))


def packing(bits: Bits, group_size: int, symmetric: bool) -> Packed:
    return Packed(bits, group_size, symmetric)


def values(codes: Codes, how: Packed) -> Tensor:
    return decode(codes.codes, codes.scale, None if how.symmetric else codes.zero, how)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, -1), (8, 32)])
def test_codes_of_rtn_are_the_nearest_of_their_group(bits: Bits, group_size: int, symmetric: bool) -> None:
    how = packing(bits, group_size, symmetric)
    found = round_to_nearest(matrix(), how, search_range=False)
    assert found.scale.shape == (6, how.groups(45))
    steps = found.scale.float().repeat_interleave(45 if group_size == -1 else group_size, dim=1)[:, :45]
    error = (values(found, how) - matrix()).abs()
    assert (error <= 0.51 * steps + 2e-3 * matrix().abs()).all(), "half a step, and what 16 bits take from a scale"
    assert int(found.codes.max()) <= 2**bits - 1


def test_values_are_those_of_incs_own_layer() -> None:
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    how = packing(4, 32, symmetric=False)
    config = RTNConfig(bits=4, use_sym=False, group_size=32, use_layer_wise=False)
    recovered = convert(prepare(_OneLinear(matrix()), config)).get_submodule("blocks.0.linear").recover().float()
    torch.testing.assert_close(values(round_to_nearest(matrix(), how, False), how), recovered, rtol=2e-3, atol=1e-4)


def test_gptq_computes_nearer_to_the_layer_than_rounding_does() -> None:
    """On inputs that go together, which is what GPTQ makes use of."""
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(400, 8, generator=generator) @ torch.randn(8, 45, generator=generator)
    patches = patches + 0.1 * torch.randn(400, 45, generator=generator)
    how = packing(4, -1, symmetric=False)
    wanted = patches @ matrix().t()

    def error(codes: Codes) -> float:
        return float((patches @ values(codes, how).t() - wanted).square().mean())

    rounded = error(round_to_nearest(matrix(), how, False))
    compensated = error(gptq(matrix(), list(patches.split(100)), how, False))
    assert compensated < 0.5 * rounded


@pytest.mark.parametrize("group_size", [32, -1])
def test_hqq_fits_every_group_of_a_filter_by_itself(group_size: int) -> None:
    how = packing(4, group_size, symmetric=False)
    scaled = matrix() * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0, 3.0])[:, None]
    found = half_quadratic(scaled, how)
    error = (values(found, how) - scaled).abs().amax(dim=1) / scaled.abs().amax(dim=1)
    assert (error < 0.2).all()
    ratio = found.scale[1].float() / found.scale[2].float()
    assert (ratio > 20).all(), "filters of other sizes have scales of their own"


@pytest.fixture(scope="module")
def few_layers() -> Model:
    layers = (
        Convolution(16, size=3, stride=2),
        Convolution(16, size=3),
        Shortcut(0),
        Convolution(32, size=3, stride=2),
        Convolution(21, size=1, batch_normalize=False, activation="linear"),
        Yolo(((8.0, 8.0), (16.0, 16.0), (32.0, 32.0))),
    )
    model = new_model(Architecture("few-layers", layers, ("cat", "dog"), image_size=64), seed=0)
    generator = torch.Generator().manual_seed(2)
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(-1, 2, generator=generator)
    model.network.requires_grad_(False)
    return model


@pytest.mark.parametrize(("algorithm", "bits"), [("rtn", 4), ("rtn", 8), ("gptq", 4), ("hqq", 4), ("hqq", 8)])
def test_a_network_of_packed_convolutions_comes_back_from_a_small_bundle(
    few_layers: Model, images: Tensor, algorithm: Algorithm, bits: Bits, tmp_path: Path
) -> None:
    convolutions = [i for i, layer in enumerate(few_layers.architecture.layers) if isinstance(layer, Convolution)]
    how = Packed(bits, 32, False)
    network = pack_weights(
        few_layers.network, how, convolutions[1:], algorithm, False, images[:2], LOG, lambda *_: None
    )
    model = few_layers.with_network(network, Form.PACKED)
    save_bundle(model, tmp_path / "packed")
    save_bundle(few_layers, tmp_path / "dense")
    again = load_bundle(tmp_path / "packed")
    with torch.inference_mode():
        for one, other, dense in zip(network(images), again.network(images), few_layers.network(images), strict=True):
            assert torch.equal(one, other)
            assert functional.cosine_similarity(one.flatten(), dense.flatten(), dim=0) > (0.9 if bits == 4 else 0.999)
    packed = again.network.get_submodule(f"layers.{convolutions[2]}.convolution")
    assert isinstance(packed, UnpackedConvolution)
    exact, _ = folded_weight(few_layers.network, convolutions[2])
    assert (packed.decoded - exact).abs().max() < exact.abs().max() / (5 if bits == 4 else 50)
    weights = sum(again.network.get_buffer(f"layers.{i}.convolution.decoded").numel() for i in convolutions[1:])
    groups = sum(again.network.get_buffer(f"layers.{i}.convolution.scale").numel() for i in convolutions[1:])
    filters = sum(again.network.get_buffer(f"layers.{i}.convolution.bias").numel() for i in convolutions[1:])
    in_float = sum(parameter.numel() for parameter in again.network.layers[convolutions[0]].parameters())
    sizes = storage_bytes(again)
    assert sizes["dense_fp32"] == 4 * parameter_count(again.network)
    assert sizes["packed"] == weights * bits // 8 + (2 + 2) * groups + (4 + 4) * filters + 4 * in_float
    assert bundle_bytes(tmp_path / "packed") < bundle_bytes(tmp_path / "dense") / (2 if bits == 4 else 1.5)
    assert nonzero_parameters(again) > 0.7 * parameter_count(again.network)


def test_grouped_convolutions_are_calibrated_on_their_own_channels() -> None:
    from detpress.adapters.inc_weight_only import _by_groups

    layer = Convolution(4, size=3, groups=2)
    weights = matrix(4, 18)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    how = packing(4, -1, symmetric=False)
    both = _by_groups(weights, [x], layer, how, False)
    alone = functional.unfold(x[:, 2:], 3, padding=1)[0].t()
    assert torch.equal(both.codes[2:], gptq(weights[2:], [alone], how, False).codes)


@pytest.mark.parametrize("size", [1, 20, 32, 33, 64, 256])
def test_gptq_is_shown_patches_of_all_rows_and_most_columns_of_a_map(size: int) -> None:
    places = torch.arange(size * size, dtype=torch.float32).reshape(1, 1, size, size)
    found = _patches(places, Convolution(1, size=1)).flatten().long()
    assert len(found) == len(found.unique()) == min(size * size, 1024)
    assert len((found // size).unique()) == size
    assert len((found % size).unique()) > 0.75 * size


def test_weights_that_are_not_finite_are_an_error(few_layers: Model) -> None:
    model = new_model(few_layers.architecture, seed=0)
    model.network.get_parameter("layers.1.convolution.weight").data[0] = float("inf")
    how = Packed(4, 32, False)
    with pytest.raises(StageError, match=r"layers\.1\.convolution: a weight is not finite"):
        pack_weights(model.network, how, [1], "rtn", False, None, LOG, lambda *_: None)


@pytest.mark.parametrize(
    ("algorithm", "factor"), [("rtn", 1e-9), ("gptq", 1e-9), ("rtn", 1e9), ("gptq", 1e9), ("hqq", 1e9)]
)
def test_weights_that_16_bits_hold_no_scale_for_are_an_error(
    few_layers: Model, images: Tensor, algorithm: Algorithm, factor: float
) -> None:
    model = new_model(few_layers.architecture, seed=0)
    model.network.requires_grad_(False)
    weight = model.network.get_parameter("layers.1.convolution.weight")
    weight *= factor
    how = Packed(4, 32, False)
    with pytest.raises(StageError, match=r"layers\.1\.convolution: 16 bits hold no scale for its weights, the largest"):
        pack_weights(model.network, how, [1], algorithm, False, images[:2], LOG, lambda *_: None)


def test_a_filter_that_hardly_has_weights_goes_with_the_others_of_its_layer(few_layers: Model) -> None:
    """As weight decay leaves those that nothing needs."""
    model = new_model(few_layers.architecture, seed=0)
    model.network.requires_grad_(False)
    model.network.get_parameter("layers.1.convolution.weight")[0] = 1e-12
    packed = pack_weights(model.network, Packed(4, 32, False), [1], "rtn", False, None, LOG, lambda *_: None)
    assert not packed.get_buffer("layers.1.convolution.decoded")[0].any()


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, -1), (8, 32)])
def test_gptq_cuts_nothing_off_weights_of_one_sign(bits: Bits, group_size: int) -> None:
    """As a depthwise filter often has them. Inputs that do not go together leave nothing to compensate."""
    positive = matrix().abs() + 0.1
    how = packing(bits, group_size, symmetric=True)
    found = gptq(positive, [torch.eye(45)], how, False)
    steps = (values(found, how) - positive).abs() / found.scale.float().repeat_interleave(
        45 if group_size == -1 else group_size, dim=1
    )[:, :45]
    assert float(steps.max()) < 1.01, "the largest of a group may be one code short"
