"""The simulated network: grids round as told, codes stand for weights, and a bundle rebuilds it without an engine."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from without_engines import rebuilt_maps

from detpress.detector.architecture import Convolution
from detpress.detector.float32 import FoldedFloat32
from detpress.detector.folding import batch_norm_of, stored_weight
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.simulated import (
    Codes,
    Grid,
    Simulated,
    simulated_network,
)
from detpress.errors import InputError
from detpress.measure.size import nonzero_parameters, parameter_count, storage_bytes

UNSIGNED = Grid(0, 15, scale=0.25, zero_point=3.0)


def codes_of(weight: Tensor, bits: int, affine: bool, grid: Grid | None) -> Codes:
    """Of a filter's own range: symmetric about 0, or from the smallest to the largest weight."""
    flat = weight.flatten(1)
    if affine:
        lowest, highest = 0, 2**bits - 1
        low, high = flat.amin(dim=1).clamp(max=0), flat.amax(dim=1).clamp(min=0)
        scale = (high - low) / highest
        zero_point = torch.round(-low / scale)
    else:
        lowest, highest = 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
        scale = flat.abs().amax(dim=1) / highest
        zero_point = torch.zeros_like(scale)
    stretched = [tensor[:, None, None, None] for tensor in (scale, zero_point)]
    codes = torch.round(weight / stretched[0] + stretched[1]).clamp(lowest, highest)
    return Codes(codes, lowest, highest, bits, scale, zero_point, grid, folded=False)


def all_quantized(model: Model, bits: int = 4, affine: bool = False, grid: Grid | None = UNSIGNED) -> Network:
    network = model.network
    assert isinstance(network, Network)
    return simulated_network(
        network,
        {
            i: codes_of(network.get_parameter(f"layers.{i}.convolution.weight"), bits, affine, grid)
            for i, layer in enumerate(model.architecture.layers)
            if isinstance(layer, Convolution) and i and i not in model.architecture.heads
        },
    )


@pytest.fixture
def simulated(dense_model: Model) -> Model:
    return dense_model.with_network(all_quantized(dense_model), Form.SIMULATED)


@pytest.mark.parametrize(
    ("grid", "bits", "given", "expected"),
    [
        (Grid(0, 15, 0.25, 3.0), 4, [-9.0, -0.75, -0.1, 0.124, 0.126, 9.0], [-0.75, -0.75, 0.0, 0.0, 0.25, 3.0]),
        (Grid(-127, 127, 0.5, 0.0), 8, [-99.0, -0.3, 0.24, 63.4], [-63.5, -0.5, 0.0, 63.5]),
        (Grid(-1, 1, 2.0, 0.0), 2, [-5.0, -0.9, 1.1], [-2.0, 0.0, 2.0]),
        (Grid(0, 3, 1.0, 1.5), 2, [-9.0, -0.6, 0.4, 9.0], [-1.5, -0.5, 0.5, 1.5]),  # an offset that LSQ+ may learn
        (Grid(0, 1, 2.0, 0.5), 1, [-3.0, -1e-12, -0.0, 0.0, 1e-12, 7.0], [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]),  # signs
        (Grid(0, 1, 0.5, 0.0), 1, [-3.0, 0.24, 0.25, 3.0], [0.0, 0.0, 0.5, 0.5]),
    ],
)
def test_a_number_becomes_the_nearest_of_its_grid(grid: Grid, bits: int, given: list, expected: list) -> None:
    assert grid.bits == bits
    assert grid.nearest(torch.tensor(given)).tolist() == expected


def test_a_convolution_computes_with_what_its_codes_stand_for() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = Simulated(4, UNSIGNED).module(nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2))
    convolution.weight = torch.randint(0, 16, (4, 3, 3, 3), dtype=torch.int8, generator=generator)
    convolution.weight_scale = torch.tensor([0.5, 0.25, 0.125, 1.0])
    convolution.weight_zero_point = torch.tensor([7.0, 8.0, 0.0, 15.0])
    convolution.bias = torch.randn(4, generator=generator)
    x = 2 * torch.randn(2, 6, 9, 9, generator=generator)
    q = (torch.round(x / 0.25) + 3).clamp(0, 15).long()
    integers = convolution.weight.long() - convolution.weight_zero_point.long()[:, None, None, None]
    sums = functional.conv2d(q - 3, integers, stride=2, padding=1, groups=2)
    expected = 0.25 * convolution.weight_scale[:, None, None] * sums + convolution.bias[:, None, None]
    torch.testing.assert_close(convolution(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_is_folded_into_scales_and_biases_also_where_it_turns_the_sign(
    dense_model: Model, images: Tensor, affine: bool
) -> None:
    """Against the float network with the same values as its weights, and BatchNorm behind the convolution."""
    network = Network(dense_model.architecture)
    network.load_state_dict(dense_model.network.state_dict())
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, -1, 1, generator=torch.Generator().manual_seed(2))
    model = dense_model.with_network(network.eval())
    for bits in (2, 8):
        quantized = all_quantized(model, bits, affine, grid=None)
        rounded = Network(model.architecture)
        rounded.load_state_dict(network.state_dict())
        for i in (i for i, layer in quantized.encodings.items() if layer.simulated):
            parameter = rounded.get_parameter(f"layers.{i}.convolution.weight")
            codes = codes_of(parameter.detach(), bits, affine, None)
            stretched = [tensor[:, None, None, None] for tensor in (codes.scale, codes.zero_point)]
            parameter.data = (codes.codes - stretched[1]) * stretched[0]
            scale = quantized.get_buffer(f"layers.{i}.convolution.weight_scale")
            torch.testing.assert_close(scale, codes.scale * batch_norm_of(network, i)[0].abs())
        with torch.inference_mode():
            for one, other in zip(rounded.eval()(images), quantized(images), strict=True):
                assert float((one - other).abs().max()) < 1e-4 * float(one.abs().max())


def test_layers_not_named_stay_in_float(simulated: Model) -> None:
    for i in (0, *simulated.architecture.heads):
        assert simulated.encodings[i] == FoldedFloat32()
        assert type(simulated.network.get_submodule(f"layers.{i}.convolution")) is nn.Conv2d


def test_a_bundle_gives_the_same_bits_where_no_engine_can_be_imported(
    simulated: Model, images: Tensor, tmp_path: Path
) -> None:
    rebuilt = rebuilt_maps(simulated, images, tmp_path)
    with torch.inference_mode():
        for one, other in zip(simulated.network(images), rebuilt, strict=True):
            assert torch.equal(one, other)


def test_form_grids_and_bits_come_back_from_a_bundle(simulated: Model, tmp_path: Path) -> None:
    save_bundle(simulated, tmp_path / "bundle")
    back = load_bundle(tmp_path / "bundle")
    assert back.form is Form.SIMULATED
    assert back.encodings == simulated.encodings


@pytest.mark.parametrize(
    ("bits", "given"),
    [(9, None), ("x", None), (4, []),
     (4, {"lowest": 0, "highest": 15, "scale": 0.0, "zero_point": 0.0}),
     (4, {"lowest": 0, "highest": 15, "scale": float("nan"), "zero_point": 0.0}),
     (4, {"lowest": 0, "highest": 15, "scale": 1.0, "zero_point": float("inf")}),
     (4, {"lowest": 3, "highest": 3, "scale": 1.0, "zero_point": 0.0}),
     (4, {"lowest": 0, "highest": 1023, "scale": 1.0, "zero_point": 0.0})],
)  # fmt: skip
def test_a_description_of_no_simulation_is_refused(bits: object, given: object) -> None:
    with pytest.raises(InputError, match=r"^here: "):
        Simulated.from_dict("here", json.loads(json.dumps({"weight_bits": bits, "input": given})))


def test_only_convolutions_can_be_quantized(dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"layers\.4: encoded as Simulated, but not a convolution"):
        Network(dense_model.architecture, {4: Simulated(8, None)})


def test_storage_is_that_of_the_codes_bits(dense_model: Model) -> None:
    """4 bits a weight, and 4 bytes for scales, biases, and zero points that are not 0."""
    float_layers = (0, *dense_model.architecture.heads)
    network = dense_model.network
    for affine in (False, True):
        simulated = all_quantized(dense_model, bits=4, affine=affine)
        model = dense_model.with_network(simulated, Form.SIMULATED)
        packed = in_float = parameters = 0
        for name, weight in network.named_parameters():
            if not name.endswith(".convolution.weight"):
                continue
            parameters += weight.numel() + len(weight)
            if int(name.split(".")[1]) in float_layers:
                in_float += 4 * (weight.numel() + len(weight))
            else:
                packed += -(-weight.numel() // 2) + (12 if affine else 8) * len(weight)
        assert storage_bytes(model) == {"dense_fp32": 4 * parameters, "packed": packed + in_float}
        assert parameter_count(simulated) == parameters


def test_a_weight_is_zero_where_its_code_is_the_zero_point(simulated: Model) -> None:
    before = nonzero_parameters(simulated)
    convolution = simulated.network.get_submodule("layers.1.convolution")
    assert isinstance(simulated.network, Network)
    zeros = int((stored_weight(simulated.network, 1) == 0).sum())
    convolution.weight.fill_(5)
    convolution.weight_zero_point.fill_(5.0)
    assert before - nonzero_parameters(simulated) == convolution.weight.numel() - zeros
