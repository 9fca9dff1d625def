"""Layers that change a map's size, channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.darknet_section import Section
from detpress.detector.layer import Channels, FeatureMap, Layer
from detpress.errors import InputError

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph


@dataclass(frozen=True)
class Upsample(Layer):
    """Repeats every pixel `stride` times in both directions."""

    stride: int = 2

    section: ClassVar[str] = "upsample"
    section_options: ClassVar[str] = "stride"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return FeatureMap(before.channels, before.side * self.stride)

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return nn.Upsample(scale_factor=self.stride, mode="nearest")

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        scales = graph.constant(f"{name}.scales", np.array([1, 1, self.stride, self.stride], np.float32))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return graph.add("Resize", [*taken, "", scales], name, **how)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls(section.whole_number("stride", 2, 1, 32))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"stride": self.stride}


@dataclass(frozen=True)
class MaxPool(Layer):
    """Maximum over `size` x `size`; at stride 1 the map keeps its size."""

    size: int
    stride: int

    section: ClassVar[str] = "maxpool"
    section_options: ClassVar[str] = "size stride padding"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        size, stride = self.size, self.stride
        if size % 2 == 0 and (size, stride) != (2, 1) and (stride == 1 or before.side % stride):
            raise InputError(f"size {size} at stride {stride} on a side of {before.side} is not computed")
        return FeatureMap(before.channels, (before.side - 1) // stride + 1)

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        if (self.size, self.stride) == (2, 1):
            return SameMaxPool2()
        return nn.MaxPool2d(self.size, self.stride, padding=(self.size - 1) // 2)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        [x] = taken
        pads = [(self.size - 1) // 2] * 4
        if (self.size, self.stride) == (2, 1):  # see SameMaxPool2
            pads = [0] * 4
            ends = graph.constant(f"{name}.pads", np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
            x = graph.add("Pad", [x, ends], f"{name}.padded", mode="edge")
        return graph.add("MaxPool", [x], name, kernel_shape=[self.size] * 2, strides=[self.stride] * 2, pads=pads)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        stride = section.whole_number("stride", 1, 1, 32)
        size = section.whole_number("size", stride, 1, 63)
        if section.whole_number("padding", size - 1, 0, 63) != size - 1:
            raise section.error(f"padding: only {size - 1}, Darknet's own for size {size}, is computed", "padding")
        return cls(size, stride)

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"size": self.size, "stride": self.stride}


@dataclass(frozen=True)
class AveragePool(Layer):
    """The mean over the whole map: one number a channel."""

    section: ClassVar[str] = "avgpool"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return FeatureMap(before.channels, 1)

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return nn.AdaptiveAvgPool2d(1)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        return graph.add("GlobalAveragePool", taken, name)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls()

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {}


class SameMaxPool2(nn.Module):
    """Maximum over 2x2 at stride 1; the last row and column are repeated, so that the map keeps its size.

    Darknet pads with minus infinity there; repeating the edge gives the same maximum and stays finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)
