"""The ONNX graph of a network with layers in integers, for one runtime: in integers between convolutions, too.

Every quantized tensor passes a pair of QuantizeLinear (Q) and DequantizeLinear (DQ); a runtime fuses an operator with
the DQs before it and the Q after it into one that computes in integers. Which pairs it needs differs:

    OpenVINO       Q DQ  Conv        LeakyRelu  Q DQ  Add   fuses a convolution with its activation and its addition;
                                                            a pair between these would stand in the way
    ONNX Runtime   Q DQ  Conv  Q DQ  LeakyRelu  Q DQ  Add   fuses every operator by itself, if a pair is on all sides

So a convolution's input is rounded for both, and so are the inputs of additions, concatenations, upsampling and
pooling; for ONNX Runtime also what a convolution gives to its activation. Without the pairs between convolutions the
numbers are those of the network, and OpenVINO passes 33 of YOLOv3's 75 convolutions' outputs on in float, ONNX
Runtime computes all of them in float.

A symmetric scale is written for OpenVINO as signed codes about 0, each 127 less. A zero point other than 0 it makes up
for in every run, by sums over the weights wherever a convolution pads: most of the time of a small network. The code
255, which only the largest value of the calibration has, becomes 127 instead of 128.

How a convolution is written says its encoding (`Encoding.to_onnx`).
"""

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from detpress.detector.architecture import Architecture, Convolution, MaxPool, Route, Shortcut, Upsample, Yolo
from detpress.detector.encoding import EncodedConvolution, geometry
from detpress.detector.folding import folded_weight
from detpress.detector.layer_kinds import kind_name
from detpress.detector.network import Network, origin
from detpress.detector.onnx_graph import Graph, Target
from detpress.errors import InputError

OPSET, IR_VERSION = 17, 8


def int8_onnx(network: Network, target: Target) -> onnx.ModelProto:
    """Input `images`, outputs `map_32`, ... as `detpress.detector.export` names them; weights are int8 constants."""
    architecture, between = network.architecture, network.between
    graph = Graph(target)
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
                x = _convolution(graph, x, network, i)
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
                x, stride = _upsample(graph, taken(i - 1), name, layer.stride), stride // layer.stride
            case MaxPool():
                x, stride = _pool(graph, taken(i - 1), name, layer), stride * layer.stride
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


def _convolution(graph: Graph, x: str, network: Network, i: int) -> str:
    encoding, name = network.encodings[i], f"layers.{i}.convolution"
    convolution = network.get_submodule(name)
    assert isinstance(convolution, EncodedConvolution | nn.Conv2d)
    if encoding.keeps_norm:
        return graph.convolution(x, name, geometry(convolution), *folded_weight(network, i))
    return encoding.to_onnx(graph, x, name, convolution)


def _upsample(graph: Graph, x: str, name: str, stride: int) -> str:
    scales = graph.constant(f"{name}.scales", np.array([1, 1, stride, stride], np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", [x, "", scales], name, **how)


def _pool(graph: Graph, x: str, name: str, layer: MaxPool) -> str:
    pads = [(layer.size - 1) // 2] * 4
    if layer.stride == 1 and layer.size == 2:  # see SameMaxPool2
        pads = [0] * 4
        ends = graph.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
        x = graph.add("Pad", [x, ends], f"{name}.padded", mode="edge")
    return graph.add("MaxPool", [x], name, kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2, pads=pads)
