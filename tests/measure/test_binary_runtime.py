"""Signs by signs: what OpenVINO's counts of equal bits give is what PyTorch's float convolutions do."""

from pathlib import Path

import pytest
import torch

from detpress.detector.architecture import Architecture, Convolution, Yolo
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import weight_name, with_encoded
from detpress.encodings.binary import BinaryInputs, packed_signs
from detpress.runtimes.export import write_onnx, write_openvino
from detpress.runtimes.opening import open_runtime, read_exported
from detpress.runtimes.openvino_runtime import program_of

LAYERS = (
    Convolution(24, size=3, stride=2, activation="relu"),  # half of what it gives is 0, which counts as -1
    Convolution(16, size=3, stride=2),
    Convolution(12, size=1, activation="relu"),
    Convolution(40, size=5),  # takes 12 channels, which fill no whole bytes
    Convolution(8, size=3, dilation=2),
    Convolution(16, size=3, stride=2, pad=2),
)
COUNTED = 4  # of the five behind the first


@pytest.fixture(params=[False, True], ids=["signs", "input_scale"])
def model(request: pytest.FixtureRequest) -> Model:
    """Random signs, scales of both signs and biases, but for the first convolution and the head."""
    head = Convolution(3 * 7, size=1, batch_normalize=False, activation="linear")
    layers = (*LAYERS, head, Yolo(((8, 8), (16, 16), (32, 32))))
    floating = new_model(Architecture("few", layers, ("a", "b"), image_size=64), seed=0)
    generator = torch.Generator().manual_seed(0)
    encoded = {}
    for i in range(1, len(LAYERS)):
        weight = floating.own_network.get_parameter(weight_name(i)).detach()
        scale, bias = torch.randn(2, len(weight), generator=generator) / weight[0].numel() ** 0.5
        encoded[i] = BinaryInputs(request.param), {"signs": packed_signs(weight), "scale": scale, "bias": bias}
    return floating.with_network(with_encoded(floating.own_network, encoded), Form.SIMULATED)


def test_runtimes_and_exported_files_give_the_maps_of_pytorch(model: Model, tmp_path: Path) -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = model.network(images)
    write_openvino(model, tmp_path / "signs.xml")
    write_onnx(model, tmp_path / "signs.onnx", opset=13)
    runtimes = [open_runtime(name, model, batch=2, threads=1) for name in ("torch", "onnxruntime", "openvino")]
    runtimes += [read_exported(tmp_path / name, threads=1)[1] for name in ("signs.onnx", "signs.xml")]
    assert [one.precision for one in runtimes] == ["fp32", "fp32", "binary+fp32", "fp32", "binary+fp32"]
    for runtime in runtimes:
        torch.testing.assert_close(runtime.run(images), wanted, rtol=1e-5, atol=1e-5)


def test_channels_that_fill_whole_bytes_are_counted_and_kept_packed(model: Model, tmp_path: Path) -> None:
    kinds = [operation.get_type_name() for operation in program_of(model).get_ops()]
    assert kinds.count("BinaryConvolution") == COUNTED
    write_openvino(model, tmp_path / "signs.xml")
    tensors = model.network.state_dict()
    in_bits = sum(one.nbytes for name, one in tensors.items() if name.endswith("signs"))
    in_float = sum(one.nbytes for name, one in tensors.items() if not name.endswith("signs"))
    of_12_channels = 31 * tensors["layers.3.convolution.signs"].nbytes
    size = (tmp_path / "signs.bin").stat().st_size
    assert size == pytest.approx(in_bits + in_float + of_12_channels, rel=0.02)
