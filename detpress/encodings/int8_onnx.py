"""The ONNX graph of a network with layers in integers, for one runtime: in integers between convolutions, too.

Every quantized tensor passes a pair of QuantizeLinear (Q) and DequantizeLinear (DQ); a runtime fuses an operator with
the DQs before it and the Q after it into one that computes in integers. Which pairs it needs differs:

    OpenVINO       Q DQ  Conv        LeakyRelu  Q DQ  Add   fuses a convolution with its activation and its addition;
                                                            a pair between these would stand in the way
    ONNX Runtime   Q DQ  Conv  Q DQ  LeakyRelu  Q DQ  Add   fuses every operator by itself, if a pair is on all sides

So a convolution's input is rounded for both, and so are the inputs of additions, concatenations, upsampling and
pooling; for ONNX Runtime also what a convolution gives to its activation, a leaky one by a range of its own
(`before_leaky`). Without the pairs between convolutions the
numbers are those of the network, and OpenVINO passes 33 of YOLOv3's 75 convolutions' outputs on in float, ONNX
Runtime computes all of them in float.

A symmetric scale is written for OpenVINO as signed codes about 0, each 127 less. A zero point other than 0 it makes up
for in every run, by sums over the weights wherever a convolution pads: most of the time of a small network. The code
255, which only the largest value of the calibration has, becomes 127 instead of 128. What was concatenated keeps its
zero point: signed, OpenVINO 2026.4 computes it wrong on x86 processors without VNNI. For ONNX Runtime such a scale is
written behind a ReLU with steps of half the size from 0 on: it fuses a ReLU only where its zero is the lowest code, and
computes the convolution in float otherwise.

How a convolution is written says its encoding, how another layer its kind (`to_onnx` of both).
"""

import onnx
from onnx import TensorProto, helper

from detpress.detector.encoding import geometry
from detpress.detector.folding import folded_weight
from detpress.detector.kinds import Convolution, Yolo
from detpress.detector.layer import FeatureMap
from detpress.detector.network import Network, convolution_name, convolution_of, origin
from detpress.detector.onnx_graph import Graph, Target
from detpress.errors import InputError

OPSET, IR_VERSION = 17, 8


def int8_onnx(network: Network, target: Target) -> onnx.ModelProto:
    """Input `images`, outputs `map_32`, ... as `Architecture.map_names` has them; weights are int8 constants."""
    architecture, between = network.architecture, network.between
    graph = Graph(target)
    given = ["images"]  # by layer, from the one before the first on: the name of its output
    outputs: list[onnx.ValueInfoProto] = []

    def taken(layer: int) -> str:
        scale = between.get(f"layers.{origin(architecture, layer)}")
        return graph.rounded(given[layer + 1], scale) if scale else given[layer + 1]

    for i, (layer, of) in enumerate(zip(architecture.layers, architecture.output_maps, strict=True)):
        inputs, name = layer.inputs(i), f"layers.{i}"
        if isinstance(layer, Convolution):
            x = _convolution(graph, given[i], network, i)
            scale = between.get(f"{name}.convolution") if target == "onnxruntime" else None
            if scale and layer.activation == "leaky":  # a relu it fuses with the convolution
                x = graph.rounded(x, scale)
            x = layer.activation_to_onnx(graph, x, name)
        elif layer.passes_on:
            x = given[inputs[0] + 1]
        else:
            graph.taken = tuple((one.channels, one.height, one.width) for one in architecture.taken_maps[i])
            try:
                x = layer.to_onnx(graph, [taken(k) for k in inputs], name)
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
        if isinstance(layer, Yolo):
            output = graph.add("Identity", [x], architecture.map_names[len(outputs)])
            outputs.append(_batch(output, of))
        given.append(x)
    proto = helper.make_graph(
        graph.nodes,
        architecture.name,
        [_batch("images", architecture.input_map)],
        outputs,
        graph.constants,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _batch(name: str, of: FeatureMap) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", of.channels, of.height, of.width])


def _convolution(graph: Graph, x: str, network: Network, i: int) -> str:
    encoding, name, convolution = network.encodings[i], convolution_name(i), convolution_of(network, i)
    if encoding.keeps_norm:
        return graph.convolution(x, name, geometry(convolution), *folded_weight(network, i))
    return encoding.to_onnx(graph, x, name, convolution)
