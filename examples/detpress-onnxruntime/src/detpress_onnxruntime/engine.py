"""ONNX Runtime's quantizers at work on a detpress network, and the scales that they have chosen.

In the graph that the static one writes, a convolution's input and weights come from a DequantizeLinear each; the
convolution is still called by its layer, `layers.4.convolution`. The dynamic one makes it a ConvInteger,
`layers.4.convolution_quant`, of int8 weights `NAME_quantized` with the scale `NAME_scale`.
"""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from detpress.api import (
    DynamicInt8,
    Form,
    InputScale,
    Model,
    StageError,
    engine_messages,
    folded_weight,
    int8_network,
    onnx_model,
    with_encoded,
)
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor

if TYPE_CHECKING:
    from detpress_onnxruntime.quantizing import StaticOptions

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


class Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """One image at a time."""

    def __init__(self, images: Tensor) -> None:
        self.left = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.left, None)
        return None if image is None else {"images": image[None].numpy()}


def quantized(model: Model, images: Tensor, config: "StaticOptions", folder: Path, log: logging.Logger) -> Model:
    """In int8. images: float32 (N, 3, H, W) in [0, 1], to calibrate with. folder: for ONNX Runtime's files."""
    before, after = _files(model, folder)
    with engine_messages(log, "root"):
        quantize_static(
            before,
            after,
            Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=not config.full_range,
            calibrate_method=METHODS[config.method],
        )
    inputs, scales = chosen(onnx.load(after))
    if not inputs:
        raise StageError("ONNX Runtime quantized no convolution")
    log.info("%d convolutions in int8", len(inputs))
    return model.with_network(int8_network(model.own_network, inputs, images, scales), Form.INT8)


def quantized_dynamically(model: Model, full_range: bool, folder: Path, log: logging.Logger) -> Model:
    """Weights in int8, inputs to be rounded by their range in every run. folder: for ONNX Runtime's files."""
    before, after = _files(model, folder)
    with engine_messages(log, "root"):
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["Conv"],
            weight_type=QuantType.QInt8,
            reduce_range=not full_range,
        )
    layers = {}
    for i, (codes, scale) in chosen_dynamically(onnx.load(after)).items():
        bias = folded_weight(model.own_network, i)[1]
        layers[i] = (DynamicInt8(), {"weight": codes, "weight_scale": scale.expand(len(codes)).clone(), "bias": bias})
    if not layers:
        raise StageError("ONNX Runtime quantized no convolution")
    log.info("%d convolutions in int8", len(layers))
    return model.with_network(with_encoded(model.own_network, layers), Form.SIMULATED)


def _files(model: Model, folder: Path) -> tuple[Path, Path]:
    """The model in ONNX, and where the quantized one goes."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx_model(model), folder / "float.onnx")
    return folder / "float.onnx", folder / "int8.onnx"


def chosen(graph: onnx.ModelProto) -> tuple[dict[int, InputScale], dict[int, Tensor]]:
    """By layer number: how a convolution's input is rounded, and the scales of its weights, one a filter."""
    numbers = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    inputs, scales = {}, {}
    for node in graph.graph.node:
        layer = re.match(r"layers\.(\d+)\.convolution", node.name)
        if node.op_type != "Conv" or not layer:
            continue
        x, weight = (makers.get(name) for name in node.input[:2])
        if x is None or weight is None or {x.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        i = int(layer[1])
        inputs[i] = InputScale(float(numbers[x.input[1]]), int(numbers[x.input[2]]))
        scales[i] = torch.tensor(numbers[weight.input[1]])
    return inputs, scales


def chosen_dynamically(graph: onnx.ModelProto) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer number: the weights' int8 codes (F, I, k, k), and their one scale."""
    numbers = {one.name: torch.tensor(onnx.numpy_helper.to_array(one)) for one in graph.graph.initializer}
    found = {}
    for node in graph.graph.node:
        layer = re.match(r"layers\.(\d+)\.convolution", node.name)
        if node.op_type == "ConvInteger" and layer:
            codes = node.input[1]
            found[int(layer[1])] = (numbers[codes], numbers[codes.removesuffix("_quantized") + "_scale"])
    return found
