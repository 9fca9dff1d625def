"""An ONNX graph that is written node by node."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from detpress.detector.geometry import Geometry
from detpress.detector.input_scale import MIDDLE, InputScale

Target = Literal["openvino", "onnxruntime"]
HAND_ON = frozenset({"QuantizeLinear", "DequantizeLinear", "MaxPool", "Resize"})  # their input's codes


class Graph:
    """Collects nodes; every node is named like its output.

    taken: channels, height and width of the maps that the layer takes which is being written.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.taken: tuple[tuple[int, int, int], ...] = ()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rounded: dict[tuple[str, InputScale], str] = {}
        self._scalars: set[str] = set()
        self._concatenated: set[str] = set()
        self._never_negative: set[str] = set()

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        if operator == "Concat" or (operator in HAND_ON and inputs[0] in self._concatenated):
            self._concatenated.add(output)
        rectified = operator == "Relu" or (operator == "Clip" and inputs[1:2] == [self.scalar(np.float32(0))])
        if rectified or (operator in HAND_ON and inputs[0] in self._never_negative):
            self._never_negative.add(output)
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
            signed = self.target == "openvino" and scale.zero_point == MIDDLE and x not in self._concatenated
            step, zero = scale.scale, np.int8(0) if signed else np.uint8(scale.zero_point)
            if self.target == "onnxruntime" and scale.zero_point == MIDDLE and x in self._never_negative:
                step, zero = step / 2, np.uint8(0)  # the codes that negative values would have, for finer ones
            numbers = [self.scalar(np.float32(step)), self.scalar(zero)]
            q = self.add("QuantizeLinear", [x, *numbers], f"{name}.q")
            self._rounded[x, scale] = self.add("DequantizeLinear", [q, *numbers], name)
        return self._rounded[x, scale]

    def rounded_dynamically(self, x: str, name: str) -> tuple[str, str, str]:
        """The codes of `x` by the range that it has in the run, their scale and their zero point."""
        codes, scale, zero = (f"{name}.{part}" for part in ("codes", "scale", "zero_point"))
        node = helper.make_node("DynamicQuantizeLinear", [x], [codes, scale, zero], name=f"{name}.rounded")
        self.nodes.append(node)
        return codes, scale, zero

    def channels(self, x: str, first: int, behind: int, name: str) -> str:
        """Those of `x` from the first to the one before `behind`."""
        numbers = zip(("first", "behind", "axis"), (first, behind, 1), strict=True)
        constants = [self.constant(f"{name}.{what}", np.array([number], np.int64)) for what, number in numbers]
        return self.add("Slice", [x, *constants], name)

    def to_float(self, x: str, name: str) -> str:
        return self.add("Cast", [x], name, to=TensorProto.FLOAT)

    def scalar(self, value: np.float32 | np.uint8 | np.int8) -> str:
        """One constant for equal numbers: OpenVINO takes out a pair between equals only where they are one constant."""
        name = f"{value.dtype}.{value!s}"
        if name not in self._scalars:
            self._scalars.add(name)
            self.constant(name, np.array(value))
        return name

    def convolution(self, x: str, name: str, how: Geometry, weight: Tensor, bias: Tensor) -> str:
        """In float. weight: float32 (F, I, k, k); bias: float32 (F,)."""
        constants = [
            self.constant(f"{name}.weight", weight.numpy()),
            self.constant(f"{name}.bias", bias.numpy()),
        ]
        return self.add("Conv", [x, *constants], name, **how.in_onnx())
