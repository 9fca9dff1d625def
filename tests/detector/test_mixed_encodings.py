"""Layers of one network encoded each in its own way."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.encoding import Encoding
from detpress.detector.folding import folded_weight, stored_weight
from detpress.detector.form import Form
from detpress.detector.input_scale import InputScale
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network, with_encoded
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.dynamic_int8 import DynamicInt8
from detpress.encodings.half import DTYPES, Half
from detpress.encodings.int8 import Int8
from detpress.encodings.packed import Packed, pack
from detpress.encodings.simulated import Grid, Simulated
from detpress.errors import InputError
from detpress.measure.size import parameter_count, storage_bytes
from detpress.report.layers import layer_states
from detpress.runtimes.export import write_darknet, write_onnx
from detpress.runtimes.opening import open_runtime

MIXED: dict[int, Encoding] = {
    2: Int8(InputScale(0.02, 30)),
    4: Half("bf16"),
    6: Packed(4, 32, symmetric=True),
    8: Simulated(8, Grid(0, 255, 0.02, 30.0)),
    10: Simulated(8, Grid(0, 1, 0.5, 0.5)),
    12: DynamicInt8(),
}


def tensors_of(network: Network, i: int, encoding: Encoding) -> dict[str, Tensor]:
    """The layer's weights, rounded as the encoding has them."""
    weight, bias = folded_weight(network, i)
    if isinstance(encoding, Half):
        return {"weight": stored_weight(network, i).to(DTYPES[encoding.dtype])}
    if isinstance(encoding, Packed):
        matrix = weight.flatten(1)
        scale = (matrix.abs().amax(dim=1, keepdim=True) / 7).expand(-1, encoding.groups(matrix.shape[1])).half()
        codes = (matrix / scale[:, :1].float()).round().clamp(-8, 7) + 8
        return {
            "codes": pack(codes.to(torch.uint8), encoding.bits),
            "scale": scale.contiguous(),
            "gain": torch.ones_like(bias),
            "bias": bias,
        }
    scale = weight.flatten(1).abs().amax(dim=1) / 127
    codes = (weight / scale[:, None, None, None]).round().to(torch.int8)
    zero = {"weight_zero_point": torch.zeros_like(bias)} if isinstance(encoding, Simulated) else {}
    return {"weight": codes, "weight_scale": scale, "bias": bias, **zero}


def mixed(model: Model, *layers: int) -> Model:
    network = model.network
    assert isinstance(network, Network)
    return model.with_network(with_encoded(network, {i: (MIXED[i], tensors_of(network, i, MIXED[i])) for i in layers}))


@pytest.fixture(scope="module")
def tiny(images: Tensor) -> Model:
    model = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
    model.network.train()
    with torch.no_grad():
        for _ in range(10):
            model.network(images)
    model.network.eval().requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("layers", "form"),
    [
        ((), Form.DENSE),
        ((6,), Form.PACKED),
        ((4, 6), Form.HALF),
        ((2, 4, 6), Form.INT8),
        (tuple(MIXED), Form.SIMULATED),
    ],
)
def test_the_form_follows_from_the_layers(tiny: Model, layers: tuple[int, ...], form: Form) -> None:
    assert mixed(tiny, *layers).form is form


def test_every_layer_keeps_its_encoding_in_a_bundle(tiny: Model, images: Tensor, tmp_path: Path) -> None:
    model = mixed(tiny, *MIXED)
    save_bundle(model, tmp_path / "bundle")
    again = load_bundle(tmp_path / "bundle")
    assert again.encodings == model.encodings == tiny.encodings | MIXED
    with torch.inference_mode():
        for one, other in zip(model.network(images), again.network(images), strict=True):
            assert torch.equal(one, other)
    bits = {int(name.split(".")[1]): state.bits for name, state in layer_states(tmp_path / "bundle").items()}
    assert bits == {i: encoding.stored_bits for i, encoding in model.encodings.items()}


def test_sizes_are_those_of_each_layers_encoding(tiny: Model) -> None:
    """Under the name of the encoding that is farthest from float: 8-bit integers."""
    model = mixed(tiny, 2, 4, 6)
    assert isinstance(tiny.network, Network)
    sizes = [tiny.network.get_parameter(f"layers.{i}.convolution.weight").shape for i in (2, 4, 6)]
    (int8, filters), (half, _), (packed, rows) = [(shape.numel(), shape[0]) for shape in sizes]
    saved = 3 * int8 + (4 * 4 - 4 - 4) * filters  # BatchNorm's four numbers a filter become a scale and a bias
    saved += 2 * half
    saved += 4 * packed - packed // 2 + (4 * 4 - 4 - 4 - 2 * -(-sizes[2][1:].numel() // 32)) * rows
    before = storage_bytes(tiny)["dense_fp32"]
    assert storage_bytes(model) == {"dense_fp32": before - 4 * 3 * (filters + rows), "int8": before - saved}
    assert parameter_count(model.network) == parameter_count(tiny.network) - filters - rows


@pytest.mark.parametrize("layers", [(4, 6), (4, 8, 10), (2, 4, 6), (2, 8, 10, 12), tuple(MIXED)])
def test_the_onnx_file_computes_what_the_network_does(
    tiny: Model, images: Tensor, tmp_path: Path, layers: tuple[int, ...]
) -> None:
    model = mixed(tiny, *layers)
    write_onnx(model, tmp_path / "mixed.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "mixed.onnx"), full_check=True)
    runtime = open_runtime("onnxruntime", model, threads=1)
    with torch.inference_mode():
        for one, other in zip(model.network(images), runtime.run(images), strict=True):
            noise = (one - other).square().mean() / one.var()
            assert float(noise) < 1e-3, "a value at the half is rounded otherwise here and there; bf16 is not float32"
    assert runtime.precision == ("fp32+int8" if 12 in layers else "fp32")


def test_darknets_files_have_the_values_that_weights_stand_for(tiny: Model, tmp_path: Path) -> None:
    difference = write_darknet(mixed(tiny, 6), tmp_path / "packed.cfg")
    assert difference.largest <= 1e-6 * difference.size
    for layers in ((4,), (8,), (2, 6)):
        with pytest.raises(InputError, match="has no Darknet form; expected one in float"):
            write_darknet(mixed(tiny, *layers), tmp_path / "other.cfg")


@pytest.mark.parametrize(("layer", "found"), [(1, "MaxPool"), (16, "Yolo"), (99, "no layer: there are 24")])
def test_weights_of_what_is_no_convolution_are_refused(layer: int, found: str) -> None:
    model = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.0625), seed=0)
    assert isinstance(model.network, Network)
    with pytest.raises(InputError, match=rf"^layers\.{layer} is {found}; expected a convolution"):
        folded_weight(model.network, layer)
