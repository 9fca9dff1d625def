"""The ONNX graph of an int8 network, written for one runtime so that it stays in integers between convolutions.

Every quantized tensor passes a pair of QuantizeLinear (Q) and DequantizeLinear (DQ); a runtime fuses an operator with
the DQs before it and the Q after it into one that computes in integers. Which pairs it needs differs:

    OpenVINO       Q DQ  Conv        LeakyRelu  Q DQ  Add   fuses a convolution with its activation and its addition;
                                                            a pair between these would stand in the way
    ONNX Runtime   Q DQ  Conv  Q DQ  LeakyRelu  Q DQ  Add   fuses every operator by itself, if a pair is on all sides

So a convolution's input is rounded for both, and so are the inputs of additions, concatenations, upsampling and
pooling; for ONNX Runtime also what a convolution gives to its activation. Without the pairs between convolutions the
numbers are those of `QuantizedNetwork`, and OpenVINO passes 33 of YOLOv3's 75 convolutions' outputs on in float, ONNX
Runtime computes all of them in float.

A symmetric scale is written for OpenVINO as signed codes about 0, each 127 less. A zero point other than 0 it makes up
for in every run, by sums over the weights wherever a convolution pads: most of the time of a small network. The code
255, which only the largest value of the calibration has, becomes 127 instead of 128.

A dynamic network takes the scale of each convolution's input in every run, for which ONNX has operators of its own:

    DynamicQuantizeLinear  ConvInteger  Cast to float  Mul by both scales  Add the bias
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detpress.detector.architecture import Architecture, Convolution, MaxPool, Route, Shortcut, Upsample, Yolo
from detpress.detector.layer_kinds import kind_name
from detpress.detector.network import origin
from detpress.encodings.dynamic import DynamicNetwork
from detpress.encodings.quantized import MIDDLE, InputScale, Quantization, QuantizedNetwork
from detpress.errors import InputError

Target = Literal["openvino", "onnxruntime"]
OPSET, IR_VERSION = 17, 8


def int8_onnx(network: QuantizedNetwork | DynamicNetwork, target: Target) -> onnx.ModelProto:
    """Input `images`, outputs `map_32`, ... as `detpress.detector.export` names them; weights are int8 constants."""
    architecture = network.architecture
    quantization = network.quantization if isinstance(network, QuantizedNetwork) else Quantization({})
    between = quantization.between
    dynamic = network.dynamic.layers if isinstance(network, DynamicNetwork) else ()
    graph = _Graph({name: tensor.numpy() for name, tensor in network.state_dict().items()}, target)
    channels = (3, *architecture.output_channels)
    strides = [1]
    given = ["images"]  # by layer, from the one before the first on: the name of its output
    outputs: list[str] = []

    def taken(layer: int) -> str:
        scale = between.get(f"layers.{origin(architecture, layer)}")
        return graph.rounded(given[layer + 1], scale) if scale else given[layer + 1]

    for i, layer in enumerate(architecture.layers):
        x, name, stride = given[i], f"layers.{i}", strides[i]
        match layer:
            case Convolution():
                if i in dynamic:
                    x = graph.dynamic_convolution(x, f"{name}.convolution", layer)
                else:
                    x = graph.convolution(x, f"{name}.convolution", layer, quantization.inputs.get(i))
                if layer.activation == "leaky":
                    scale = between.get(f"{name}.convolution") if target == "onnxruntime" else None
                    x = graph.add("LeakyRelu", [graph.rounded(x, scale) if scale else x], name, alpha=0.1)
                elif layer.activation == "relu":  # both runtimes fuse it with the convolution
                    x = graph.add("Relu", [x], name)
                elif layer.activation != "linear":
                    raise InputError(f"{name}: {layer.activation} of an int8 model is not written in ONNX")
                stride *= layer.stride
            case Shortcut(source=source):
                x = graph.add("Add", [taken(i - 1), taken(source)], name)
            case Route(sources=(source,)):
                x, stride = given[source + 1], strides[source + 1]
            case Route(sources=sources):
                x, stride = graph.add("Concat", [taken(s) for s in sources], name, axis=1), strides[sources[0] + 1]
            case Upsample():
                x, stride = graph.upsample(taken(i - 1), name, layer.stride), stride // layer.stride
            case MaxPool():
                x, stride = graph.pool(taken(i - 1), name, layer), stride * layer.stride
            case Yolo():
                outputs.append(graph.add("Identity", [x], f"map_{stride}"))
            case _:
                raise InputError(f"{name}: a {kind_name(type(layer))} layer of an int8 model is not written in ONNX")
        given.append(x)
        strides.append(stride)
    side = architecture.image_size
    proto = helper.make_graph(
        graph.nodes,
        architecture.name,
        [_batch("images", 3, side)],
        [_batch(f"map_{strides[i]}", channels[i], side // strides[i]) for i in _yolo_indices(architecture)],
        graph.constants,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _yolo_indices(architecture: Architecture) -> list[int]:
    return [i for i, layer in enumerate(architecture.layers) if isinstance(layer, Yolo)]


def _batch(name: str, channels: int, side: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, side, side])


def _geometry(layer: Convolution) -> dict[str, Any]:
    return {
        "kernel_shape": layer.kernel,
        "strides": [layer.stride] * 2,
        "pads": [*layer.padding, *layer.padding],
        "group": layer.groups,
    }


class _Graph:
    """Collects nodes; every node is named like its output.

    tensors: the network's state dict.
    """

    def __init__(self, tensors: dict[str, NDArray[np.generic]], target: Target) -> None:
        self.signed = target == "openvino"
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.tensors = tensors
        self._rounded: dict[tuple[str, InputScale], str] = {}
        self._scalars: set[str] = set()

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def rounded(self, x: str, scale: InputScale) -> str:
        """`x` after a pair of Q and DQ, the same pair for all that take it."""
        if (x, scale) not in self._rounded:
            others = sum(x == other for other, _ in self._rounded)
            name = f"{x}.rounded.{others}" if others else f"{x}.rounded"
            zero = np.int8(0) if self.signed and scale.zero_point == MIDDLE else np.uint8(scale.zero_point)
            numbers = [self.scalar(np.float32(scale.scale)), self.scalar(zero)]
            q = self.add("QuantizeLinear", [x, *numbers], f"{name}.q")
            self._rounded[x, scale] = self.add("DequantizeLinear", [q, *numbers], name)
        return self._rounded[x, scale]

    def scalar(self, value: np.float32 | np.uint8 | np.int8) -> str:
        """One constant for equal numbers: OpenVINO takes out a pair between equals only where they are one constant."""
        name = f"{value.dtype}.{value!s}"
        if name not in self._scalars:
            self._scalars.add(name)
            self.constant(name, np.array(value))
        return name

    def convolution(self, x: str, name: str, layer: Convolution, scale: InputScale | None) -> str:
        weight = self.constant(f"{name}.weight", self.tensors[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.tensors[f"{name}.bias"])
        if scale is not None:
            scales = self.constant(f"{name}.weight_scale", self.tensors[f"{name}.weight_scale"])
            zeros = self.constant(f"{name}.weight_zero_point", np.zeros(layer.filters, np.int8))
            x = self.rounded(x, scale)
            weight = self.add("DequantizeLinear", [weight, scales, zeros], f"{name}.weight.float", axis=0)
        return self.add("Conv", [x, weight, bias], name, **_geometry(layer))

    def dynamic_convolution(self, x: str, name: str, layer: Convolution) -> str:
        """Its input rounded by the range that it has in the run; the same numbers as `DynamicConvolution`."""
        weight = self.constant(f"{name}.weight", self.tensors[f"{name}.weight"])
        scales = self.constant(f"{name}.weight_scale", self.tensors[f"{name}.weight_scale"].reshape(-1, 1, 1))
        bias = self.constant(f"{name}.bias", self.tensors[f"{name}.bias"].reshape(-1, 1, 1))
        codes, scale, zero = (f"{name}.input.{part}" for part in ("codes", "scale", "zero_point"))
        self.nodes.append(
            helper.make_node("DynamicQuantizeLinear", [x], [codes, scale, zero], name=f"{name}.input.rounded")
        )
        sums = self.add("ConvInteger", [codes, weight, zero], f"{name}.sums", **_geometry(layer))
        sums = self.add("Cast", [sums], f"{name}.sums.float", to=TensorProto.FLOAT)
        both = self.add("Mul", [scale, scales], f"{name}.scale")
        return self.add("Add", [self.add("Mul", [sums, both], f"{name}.product"), bias], name)

    def upsample(self, x: str, name: str, stride: int) -> str:
        scales = self.constant(f"{name}.scales", np.array([1, 1, stride, stride], np.float32))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", [x, "", scales], name, **how)

    def pool(self, x: str, name: str, layer: MaxPool) -> str:
        pads = [(layer.size - 1) // 2] * 4
        if layer.stride == 1 and layer.size == 2:  # see SameMaxPool2
            pads = [0] * 4
            ends = self.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
            x = self.add("Pad", [x, ends], f"{name}.padded", mode="edge")
        return self.add("MaxPool", [x], name, kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2, pads=pads)
