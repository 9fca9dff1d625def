"""Detectors in the formats of other programs; what is written is read again and compared.

ONNX: input `images`, float32 (batch, 3, H, W) in [0, 1], any batch; outputs one raw map a scale (see
`Network.forward`), called by its stride: `map_32`, `map_16`, `map_8`. What is needed to make boxes of them is in the
file's metadata, each value as JSON: `classes`, `anchors` (of each map, pixels of the input), `image_size`, `resize`.
Int8 models keep their weights in 8 bits, with QuantizeLinear and DequantizeLinear around every quantized convolution.
"""

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor

from detpress.detector.half import HalfNetwork
from detpress.detector.network import Network
from detpress.errors import InputError
from detpress.model import Model


def onnx_model(model: Model) -> onnx.ModelProto:
    """The model in ONNX, without the names of source files that PyTorch's exporter leaves in it.

    A model in 16 bits is written as its rounded weights in float32: in which precision a convolution computes is the
    runtime's choice.
    """
    architecture = model.architecture
    network = model.network.in_float() if isinstance(model.network, HalfNetwork) else model.network
    side = architecture.image_size
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
    proto = program.model_proto
    _remove_provenance(proto)
    metadata = {
        "classes": architecture.classes,
        "anchors": [layer.anchors for layer in architecture.yolo_layers],
        "image_size": side,
        "resize": architecture.resize,
    }
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in metadata.items()})
    return proto


def _remove_provenance(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]


def write_onnx(model: Model, path: Path) -> float:
    """Writes the ONNX file and runs it in ONNX Runtime: the largest absolute difference of a raw map's element.

    Raises InputError where the file cannot be written.
    """
    content = onnx_model(model).SerializeToString(deterministic=True)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _largest_difference(model, lambda image: session.run(None, {"images": image.numpy()}))


def write_darknet(model: Model, path: Path) -> float:
    """Writes Darknet's `path` (.cfg) and, beside it, the .weights; the largest absolute difference when read again.

    Raises InputError for a model that is not in float, and where a file cannot be written.
    """
    from detpress.detector.darknet import read_model, write_model

    if not isinstance(model.network, Network) or isinstance(model.network, HalfNetwork):
        raise InputError(f"a model of the form {model.form} has no Darknet form; expected one in float")
    weights = path.with_suffix(".weights")
    try:
        write_model(model.network, path, weights)
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be written ({error.strerror})") from error
    again = read_model(path, weights, list(model.architecture.classes))
    return _largest_difference(model, again.network)


def _largest_difference(model: Model, run: Callable[[Tensor], Iterable[Any]]) -> float:
    """Between the raw maps of the model and of `run`, for one random image."""
    side = model.architecture.image_size
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = zip(model.network(image), run(image), strict=True)
        return max(float((one - torch.as_tensor(other)).abs().max()) for one, other in pairs)


# What `detpress export --to` takes: the file's suffix, and the function that writes it.
EXPORTS: dict[str, tuple[str, Callable[[Model, Path], float]]] = {
    "onnx": (".onnx", write_onnx),
    "darknet": (".cfg", write_darknet),
}
