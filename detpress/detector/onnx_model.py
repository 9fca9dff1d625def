"""Detectors in ONNX.

Input `images`, float32 (batch, 3, H, W) in [0, 1], any batch; outputs one raw map a scale (see `Network.forward`),
called by its stride: `map_32`, `map_16`, `map_8`. What is needed to make boxes of them is in the file's metadata, each
value as JSON: `classes`, `anchors` (of each map, pixels of the input), `image_size`, `resize`. Int8 models keep their
weights in 8 bits (see `int8_onnx`).
"""

import json
import warnings
from collections.abc import Mapping

import onnx
import torch
from onnx import version_converter

from detpress.detector.architecture import Architecture, Convolution, Layer, Yolo
from detpress.detector.dynamic import DynamicNetwork
from detpress.detector.half import HalfNetwork
from detpress.detector.int8_onnx import IR_VERSION, OPSET, Target, int8_onnx
from detpress.detector.quantized import QuantizedNetwork
from detpress.errors import InputError
from detpress.model import Model


def onnx_model(model: Model, target: Target = "onnxruntime") -> onnx.ModelProto:
    """The model in ONNX. `target`: the runtime that an int8 model's graph is for; others are the same for all."""
    network = model.network
    if isinstance(network, QuantizedNetwork | DynamicNetwork):
        proto = int8_onnx(network, target)
    else:
        proto = _float_model(model)
    onnx.helper.set_model_props(proto, metadata(model.architecture))
    return proto


def _float_model(model: Model) -> onnx.ModelProto:
    """By PyTorch's exporter, without the names of source files that it leaves in the model.

    A model in 16 bits is written as its rounded weights in float32: in which precision a convolution computes is the
    runtime's choice.
    """
    network = model.network.in_float() if isinstance(model.network, HalfNetwork) else model.network
    side = model.architecture.image_size
    images = torch.zeros(2, 3, side, side)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch to itself
        warnings.simplefilter("ignore", DeprecationWarning)
        maps = network(images)
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=[f"map_{side // raw.shape[-1]}" for raw in maps],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        )
    assert program is not None
    # Torch writes the newest versions, which older runtimes refuse; the int8 files' are enough for these operators.
    proto = version_converter.convert_version(program.model_proto, OPSET)
    proto.ir_version = IR_VERSION
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
    return proto


def metadata(architecture: Architecture) -> dict[str, str]:
    """What is needed to make boxes of raw maps, each value as JSON; `heads_of_metadata` reads it."""
    values = {
        "classes": architecture.classes,
        "anchors": [layer.anchors for layer in architecture.yolo_layers],
        "image_size": architecture.image_size,
        "resize": architecture.resize,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def heads_of_metadata(found: Mapping[str, str]) -> Architecture:
    """The detection heads without the network before them: all that decoding and drawing boxes need.

    Raises InputError where a key is missing or holds something else.
    """
    try:
        values = {key: json.loads(found[key]) for key in ("classes", "anchors", "image_size", "resize")}
        layers: list[Layer] = []
        for anchors in values["anchors"]:
            filters = len(anchors) * (5 + len(values["classes"]))
            layers.append(Convolution(filters, size=1, batch_normalize=False, activation="linear"))
            layers.append(Yolo(tuple((float(width), float(height)) for width, height in anchors)))
        return Architecture("heads", tuple(layers), tuple(values["classes"]), values["image_size"], values["resize"])
    except KeyError as error:
        raise InputError(f"lacks the metadata {error} that `detpress export` writes") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"its metadata do not describe a detector: {error}") from error
