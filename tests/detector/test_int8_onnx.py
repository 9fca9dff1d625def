"""The graphs for runtimes: executed in integers throughout, with the scales of the same calibration."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Convolution, MaxPool, Route, Shortcut, Upsample, Yolo
from detpress.detector.float32 import FoldedFloat32
from detpress.detector.input_scale import MIDDLE, InputScale
from detpress.detector.kinds import Activation, AveragePool, Dropout, ScaleChannels
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network, filled_network, folded_but
from detpress.detector.onnx_graph import Target
from detpress.encodings.before_leaky import BeforeLeaky
from detpress.encodings.bundle import save_bundle
from detpress.encodings.calibration import BATCH, with_scales_between
from detpress.encodings.int8 import Int8, input_scales
from detpress.encodings.int8_from_scales import int8_network
from detpress.encodings.int8_onnx import int8_onnx
from detpress.errors import InputError
from detpress.runtimes.opening import open_runtime
from detpress.runtimes.openvino_runtime import openvino_core

ANCHORS = ((8.0, 8.0), (16.0, 16.0), (32.0, 32.0))
EVERY_KIND_OF_LAYER = Architecture(
    "every-kind",
    (
        Convolution(8, size=3, stride=2),
        Convolution(8, size=3, activation="relu"),
        Shortcut(0),
        MaxPool(2, 2),
        Convolution(8, size=1),
        MaxPool(2, 1),
        Upsample(),
        Route((6, 2)),
        Convolution(21, size=1, batch_normalize=False, activation="linear"),
        Yolo(ANCHORS),
    ),
    ("cat", "dog"),
    image_size=64,
)


def every_kind(images: Tensor) -> Network:
    scales = {0: InputScale(1 / 255, 0), 1: InputScale(0.02, 30), 4: InputScale(0.04, 30), 8: InputScale(0.05, 40)}
    network = Network(EVERY_KIND_OF_LAYER, {i: Int8(scale) for i, scale in scales.items()})
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith(".weight"):
            tensor.random_(-127, 128, generator=generator)
        elif name.endswith(".weight_scale"):
            tensor.fill_(1 / 512)
    return with_scales_between(network.eval(), images)


def executed_by_openvino(proto: onnx.ModelProto) -> Counter[tuple[str, str]]:
    """How often each kind of operator gives each type of number in the graph that is really executed."""
    core = openvino_core()
    program = core.read_model(proto.SerializeToString())
    program.reshape([1, 3, 64, 64])
    options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(program, "CPU", options)
    found = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    return Counter((info["layerType"].astype(str), info["outputPrecisions"].astype(str)) for info in found)


def test_openvino_hands_on_integers_from_the_first_convolution_to_the_heads(int8_model: Model) -> None:
    assert isinstance(int8_model.network, Network)
    found = executed_by_openvino(int8_onnx(int8_model.network, "openvino"))

    def in_integers(operator: str) -> int:
        return found[operator, "i8"] + found[operator, "u8"]

    assert in_integers("Convolution") == 72, "with activations and additions fused into them"
    assert found["Convolution", "f32"] == 3, "heads"
    assert (in_integers("Concatenation"), in_integers("Interpolate")) == (2, 2)
    assert in_integers("Subgraph") <= 3, "what rounds the images, and perhaps what was concatenated; no more"
    assert found["Subgraph", "f32"] == 0


def test_openvino_computes_every_raw_map_as_the_network_does(int8_model: Model, images: Tensor) -> None:
    """On any processor: behind the first map lies a concatenation, which OpenVINO computes wrong of signed codes."""
    found = open_runtime("openvino", int8_model, threads=1).run(images[:2])
    with torch.inference_mode():
        for one, other in zip(int8_model.network(images[:2]), found, strict=True):
            assert float((one - other).square().mean() / one.var()) < 0.02


def test_onnxruntime_fuses_every_operator_but_the_heads(int8_model: Model, tmp_path: Path) -> None:
    assert isinstance(int8_model.network, Network)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(int8_onnx(int8_model.network, "onnxruntime").SerializeToString(), options)
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (found["QLinearConv"], found["QLinearLeakyRelu"], found["QLinearAdd"]) == (72, 72, 23)
    assert (found["QLinearConcat"], found["Conv"], found["LeakyRelu"], found["Add"]) == (2, 3, 0, 0)
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 6), "the images; inputs and weights of heads"


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_every_kind_of_layer_is_computed_as_by_the_network(target: Target, images: Tensor) -> None:
    network = every_kind(images)
    proto = int8_onnx(network, target)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    with torch.inference_mode():
        expected = network(images)[0]
        found = torch.from_numpy(session.run(["map_2"], {"images": images.numpy()})[0])
    assert found.shape == expected.shape
    noise = (found - expected).square().mean() / expected.var()
    assert 0 < float(noise) < 2e-3, "rounded between convolutions: 1.1e-3 for OpenVINO, 1.4e-3 for ONNX Runtime"


def test_without_scales_between_the_graph_is_the_network(images: Tensor) -> None:
    network = every_kind(images)
    bare = filled_network(EVERY_KIND_OF_LAYER, network.encodings, network.state_dict())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(int8_onnx(bare, "onnxruntime").SerializeToString(), options)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.inference_mode():
        off = (found - bare(images)[0]).abs()
    assert float(off.mean()) < 1e-3, "a value at the half is rounded otherwise here and there"


@pytest.mark.parametrize("activation", get_args(Activation))
def test_squeeze_and_excitation_and_every_activation_are_those_of_the_network(
    activation: Activation, images: Tensor
) -> None:
    layers = (
        Convolution(8, (3, 1), stride=2, activation=activation),
        AveragePool(),
        Convolution(8, 1, batch_normalize=False, activation="logistic"),
        ScaleChannels(0),
        Dropout(),
        Convolution(21, size=1, batch_normalize=False, activation="linear"),
        Yolo(ANCHORS),
    )
    architecture = Architecture("excited", layers, ("cat", "dog"), image_size=64)
    network = Network(architecture, folded_but(architecture, {0: Int8(InputScale(1 / 255, 0))})).eval()
    network.load_state_dict(
        {
            name: torch.randint(-127, 128, tensor.shape).to(torch.int8) if tensor.dtype == torch.int8 else tensor / 100
            for name, tensor in network.state_dict().items()
        }
    )
    session = onnxruntime.InferenceSession(int8_onnx(network, "onnxruntime").SerializeToString())
    found = torch.from_numpy(session.run(["map_2"], {"images": images.numpy()})[0])
    with torch.inference_mode():
        assert torch.allclose(found, network(images)[0], atol=1e-3)


def test_a_tensor_that_a_convolution_takes_keeps_its_scale_and_pooling_shares_one(images: Tensor) -> None:
    network = every_kind(images)
    inputs, between = input_scales(network), network.between
    assert between["layers.0"] == inputs[1]
    assert between["layers.7"] == inputs[8]
    assert between["layers.3"] == inputs[4]
    assert between["layers.4"] == between["layers.5"] == between["layers.6"], "pooled, doubled, then concatenated"
    assert "layers.8.convolution" not in between, "raw maps stay in float"


def test_symmetric_scales_are_signed_for_openvino_but_of_what_was_concatenated(images: Tensor) -> None:
    scales = {i: InputScale(0.05, MIDDLE) for i in (0, 1, 4, 8)}
    network = Network(EVERY_KIND_OF_LAYER, {i: Int8(scale) for i, scale in scales.items()})
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith(".weight"):
            tensor.random_(-127, 128, generator=generator)
        elif name.endswith(".weight_scale"):
            tensor.fill_(1 / 512)
    network = with_scales_between(network.eval(), images)
    leaky = {"layers.0.convolution", "layers.4.convolution"}  # what their activations take has a range of its own
    assert {scale.zero_point for name, scale in network.between.items() if name not in leaky} == {MIDDLE}
    by_target = {target: int8_onnx(network, target) for target in ("openvino", "onnxruntime")}
    names = {target: {one.name for one in proto.graph.initializer} for target, proto in by_target.items()}
    assert {name for name in names["openvino"] if name.startswith(("int8.", "uint8."))} == {"int8.0", "uint8.127"}
    own = {f"uint8.{network.between[name].zero_point}" for name in leaky}
    of_codes = {name for name in names["onnxruntime"] if name.startswith(("int8.", "uint8."))} - own
    assert of_codes == {"uint8.127", "uint8.0"}, "0 behind the one ReLU"
    zeros = {
        node.input[0]: node.input[2] for node in by_target["openvino"].graph.node if node.op_type == "QuantizeLinear"
    }
    assert [x for x, zero in zeros.items() if zero == "uint8.127"] == ["layers.7"]


def test_ranges_are_those_of_the_images(images: Tensor) -> None:
    network = every_kind(images)
    seen: list[Tensor] = []
    hook = network.get_submodule("layers.1.convolution").register_forward_hook(lambda _, __, x: seen.append(x))
    with torch.inference_mode():
        for batch in (images[:10], images[10:]):  # 20 images are two batches
            network(batch)
    hook.remove()
    low, high = (sum(float(end(x)) for x in seen) / 2 for end in (torch.min, torch.max))
    scale = network.between["layers.1.convolution"]
    assert scale.scale == pytest.approx((high - low) / 255)
    assert scale.zero_point == round(-low / scale.scale)


def test_what_a_leaky_relu_takes_has_a_range_that_loses_least_behind_it(images: Tensor) -> None:
    network = every_kind(images)
    seen: list[Tensor] = []
    hook = network.get_submodule("layers.4.convolution").register_forward_hook(lambda _, __, x: seen.append(x))
    with torch.inference_mode():
        for batch in (images[:10], images[10:]):
            network(batch)
    hook.remove()
    values = BeforeLeaky(*(sum(float(end(x)) for x in seen) / 2 for end in (torch.min, torch.max)))
    values.see(torch.cat(seen)[:BATCH])
    expected = InputScale.of_range(*values.best_range())
    assert network.between["layers.4.convolution"].scale == pytest.approx(expected.scale)
    assert network.between["layers.4.convolution"].zero_point == expected.zero_point


def test_no_calibration_images_is_an_error(images: Tensor) -> None:
    with pytest.raises(InputError, match="no calibration images"):
        with_scales_between(every_kind(images), images[:0])


def test_what_a_convolution_in_float_gives_stays_in_float(images: Tensor) -> None:
    whole = every_kind(images)
    network = Network(EVERY_KIND_OF_LAYER, whole.encodings | {4: FoldedFloat32()}).eval()
    between = with_scales_between(network, images).between
    assert not {"layers.4", "layers.4.convolution"} & between.keys()


RUN = """
import sys
for package in ("nni", "neural_compressor", "torchao", "torch.ao.quantization.fx", "torch.ao.quantization.pt2e"):
    sys.modules[package] = None  # importing it raises ImportError
from pathlib import Path
import torch
from detpress.encodings.bundle import load_bundle
from detpress.runtimes.opening import open_runtime
folder = Path(sys.argv[1])
model = load_bundle(folder / "bundle")
for name in ("onnxruntime", "openvino"):
    torch.save(open_runtime(name, model, threads=1).run(torch.load(folder / "images.pt")), folder / f"{name}.pt")
"""


@pytest.mark.usefixtures("exact_int8")
def test_a_bundle_runs_in_both_runtimes_where_no_quantization_code_can_be_imported(
    int8_model: Model, images: Tensor, tmp_path: Path
) -> None:
    save_bundle(int8_model, tmp_path / "bundle")
    torch.save(images[:2], tmp_path / "images.pt")
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], check=True)
    with torch.inference_mode():
        expected = int8_model.network(images[:2])
    for name in ("onnxruntime", "openvino"):
        for one, other in zip(expected, torch.load(tmp_path / f"{name}.pt"), strict=True):
            assert float((one - other).square().mean() / one.var()) < 2e-2


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_onnxruntime_computes_rectified_convolutions_with_symmetric_scales_in_integers(
    activation: Activation, images: Tensor, tmp_path: Path
) -> None:
    layers = (
        Convolution(8, size=3, stride=2, activation=activation),
        MaxPool(2, 2),
        Convolution(8, size=3, activation=activation),
        Upsample(),
        Route((3, 0)),
        Convolution(21, size=1, batch_normalize=False, activation="linear"),
        Yolo(ANCHORS),
    )
    model = new_model(Architecture("rectified", layers, ("cat", "dog"), image_size=64), seed=0)
    assert isinstance(model.network, Network)
    symmetric = {i: InputScale.of_range(0, 2, symmetric=True) for i in (2, 5)}
    network = int8_network(model.network, {0: InputScale(1 / 255, 0), **symmetric}, images)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(int8_onnx(network, "onnxruntime").SerializeToString(), options)
    found = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (found["QLinearConv"], found["Conv"]) == (2, 1), "the head"
    assert (found["Relu"], found["Clip"], found["FusedConv"]) == (0, 0, 0)
    with torch.inference_mode():
        expected = network(images)[0]
    noise = (torch.from_numpy(session.run(None, {"images": images.numpy()})[0]) - expected).square().mean()
    assert float(noise / expected.var()) < 2e-3, "finer steps than those of the network"
