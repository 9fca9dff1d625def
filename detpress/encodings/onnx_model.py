"""Detectors in ONNX.

Input `images`, float32 (batch, 3, H, W) in [0, 1], any batch; outputs one raw map a scale (see `Network.forward`),
called by its stride: `map_32`, `map_16`, `map_8`, a second one of a stride `map_8_1`. What is needed to make boxes of
them is in the file's metadata, each value as JSON: `classes`, `anchors` (of each map, pixels of the input),
`image_size` (a number, or height and width), `resize`, and, where one of them is not YOLOv3's, `scale_x_y` and
`new_coords` of each map (see `Yolo`). Int8 models keep their
weights in 8 bits (see `int8_onnx`), all others are written with the float values of theirs: in which precision a
convolution computes is the runtime's choice.
"""

import contextlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnx import version_converter

from detpress.detector.architecture import Architecture, Convolution, Layer, Yolo
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.detector.onnx_graph import Target
from detpress.encodings.in_float import in_float
from detpress.encodings.int8_onnx import OPSET, int8_onnx
from detpress.errors import InputError

OPSETS = range(13, 24)  # those that a model can be written in
EXPORTER_OPSET = 18  # the lowest that PyTorch's exporter writes
# Attributes of Resize and ReduceMean, here at what they did before they had them.
SINCE_18 = ("antialias", "keep_aspect_ratio_policy", "noop_with_empty_axes")


def onnx_model(model: Model, target: Target = "onnxruntime", opset: int = OPSET) -> onnx.ModelProto:
    """The model in ONNX, in the lowest IR that has the opset.

    target: the runtime that an int8 model's graph is for; others are the same for all. opset: one of `OPSETS`.
    """
    network = model.network
    assert isinstance(network, Network)
    if any(encoding.precision == "int8" for encoding in network.encodings.values()):
        proto = int8_onnx(network, target)
    else:
        proto = _float_model(in_float(network))
    proto = _in_opset(proto, opset)
    onnx.helper.set_model_props(proto, metadata(model.architecture))
    return proto


def _float_model(network: Network) -> onnx.ModelProto:
    """Node by node, as networks in integers are written, and in a hundredth of the exporter's time; by the exporter
    where a layer, or an encoding, does not write itself.
    """
    with contextlib.suppress(InputError):
        return int8_onnx(network, "onnxruntime")
    return _exported(network)


def _exported(network: Network) -> onnx.ModelProto:
    """By PyTorch's exporter, without the names of source files that it leaves in the model."""
    size = network.architecture.input_size
    images = torch.zeros(2, 3, *size)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch to itself
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            opset_version=EXPORTER_OPSET,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=list(network.architecture.map_names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        )
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
    return proto


def _in_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The operators of these networks do the same since opset 13, so that going down is a matter of what the file says;
    ONNX's converter knows the way up only (it lacks `Add` and `Pad` downwards).

    Raises InputError where another package's layer has an operator that is younger.
    """
    if opset > proto.opset_import[0].version:
        proto = version_converter.convert_version(proto, opset)
    if opset < EXPORTER_OPSET:
        nodes = [part for node in proto.graph.node for part in _older(node)]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    for node in proto.graph.node if opset < EXPORTER_OPSET else ():
        kept = [attribute for attribute in node.attribute if attribute.name not in SINCE_18]
        del node.attribute[:]
        node.attribute.extend(kept)
        if node.op_type == "ReduceMean" and len(node.input) == 2:  # which axes: an input since 18
            axes = _constant(proto.graph, node.input.pop())
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
        _check_known(node, opset)
    proto.opset_import[0].version = opset
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    return proto


def _older(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What does the same by operators that were there before opset 18."""
    if node.op_type != "Mish":
        return [node]
    [x], [output] = node.input, node.output
    return [
        onnx.helper.make_node("Softplus", [x], [f"{output}.softplus"], name=f"{output}.softplus"),
        onnx.helper.make_node("Tanh", [f"{output}.softplus"], [f"{output}.tanh"], name=f"{output}.tanh"),
        onnx.helper.make_node("Mul", [x, f"{output}.tanh"], [output], name=node.name),
    ]


def _constant(graph: onnx.GraphProto, name: str) -> list[int]:
    [value] = [tensor for tensor in graph.initializer if tensor.name == name]
    numbers: list[int] = onnx.numpy_helper.to_array(value).tolist()
    return numbers


def _check_known(node: onnx.NodeProto, opset: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        known = len(node.input) <= schema.max_input and all(part.name in schema.attributes for part in node.attribute)
    except onnx.defs.SchemaError:
        known = False
    if not known:
        raise InputError(f"{node.op_type} is not written in opset {opset}; expected --opset {EXPORTER_OPSET} or above")


def metadata(architecture: Architecture) -> dict[str, str]:
    """What is needed to make boxes of raw maps, each value as JSON; `heads_of_metadata` reads it."""
    heads = architecture.yolo_layers
    values: dict[str, Any] = {
        "classes": architecture.classes,
        "anchors": [layer.anchors for layer in heads],
        "image_size": architecture.image_size,
        "resize": architecture.resize,
    }
    usual = Yolo.unless_said
    for option in ("scale_x_y", "new_coords"):
        found = [getattr(layer, option) for layer in heads]
        values |= {option: found} if set(found) != {usual[option]} else {}
    return {key: json.dumps(value) for key, value in values.items()}


def heads_of_metadata(found: Mapping[str, str]) -> Architecture:
    """The detection heads without the network before them: all that decoding and drawing boxes need.

    Raises InputError where a key is missing or holds something else.
    """
    try:
        values = {key: json.loads(found[key]) for key in ("classes", "anchors", "image_size", "resize")}
        count, size = len(values["anchors"]), values["image_size"]
        scales = json.loads(found.get("scale_x_y", json.dumps([1.0] * count)))
        by_square = json.loads(found.get("new_coords", json.dumps([False] * count)))
        layers: list[Layer] = []
        for anchors, scale, squared in zip(values["anchors"], scales, by_square, strict=True):
            filters = len(anchors) * (5 + len(values["classes"]))
            layers.append(Convolution(filters, size=1, batch_normalize=False, activation="linear"))
            sides = tuple((float(width), float(height)) for width, height in anchors)
            layers.append(Yolo(sides, float(scale), bool(squared)))
        size = size if isinstance(size, int) else (size[0], size[1])
        return Architecture("heads", tuple(layers), tuple(values["classes"]), size, values["resize"])
    except KeyError as error:
        raise InputError(f"lacks the metadata {error} that `detpress export` writes") from error
    except (TypeError, ValueError, LookupError) as error:
        raise InputError(f"its metadata do not describe a detector: {error}") from error
