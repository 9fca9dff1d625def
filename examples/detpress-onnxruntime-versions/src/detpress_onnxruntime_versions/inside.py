"""What runs in the environment of one ONNX Runtime: a float ONNX file and images go in, scales come out.

In the graph that its quantizer writes, a convolution's input and weights come from a DequantizeLinear each; the
convolution is still called by its layer, `layers.4.convolution`.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
Progress = Callable[[str, int, int], None]


class Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """One image at a time. images: float32 (N, 3, H, W)."""

    def __init__(self, images: "np.ndarray[Any, Any]", progress: Progress) -> None:
        self.images, self.progress, self.done = images, progress, 0

    def get_next(self) -> dict[str, Any] | None:
        if self.done == len(self.images):
            return None
        self.done += 1
        self.progress("images calibrated", self.done, len(self.images))
        return {"images": self.images[self.done - 1 : self.done]}


def quantize(progress: Progress, model: str, images: str, method: str, full_range: bool) -> list[dict[str, Any]]:
    """One entry a convolution in int8: its layer's number, the scale and zero point of its input, a scale a filter."""
    written = str(Path(model).with_name("int8.onnx"))
    quantize_static(
        model,
        written,
        Images(np.load(images), progress),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=not full_range,
        calibrate_method=METHODS[method],
    )
    return chosen(onnx.load(written))


def chosen(graph: onnx.ModelProto) -> list[dict[str, Any]]:
    numbers = {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    found = []
    for node in graph.graph.node:
        layer = re.match(r"layers\.(\d+)\.convolution", node.name)
        x, weight = (makers.get(name) for name in (*node.input, "", "")[:2])
        if node.op_type != "Conv" or not layer or x is None or weight is None:
            continue
        if {x.op_type, weight.op_type} == {"DequantizeLinear"}:
            found.append(
                {
                    "layer": int(layer[1]),
                    "scale": float(numbers[x.input[1]]),
                    "zero_point": int(numbers[x.input[2]]),
                    "weight_scales": numbers[weight.input[1]].tolist(),
                }
            )
    return found
