"""Layers that change a map's size, channel by channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
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
    neutral_options: ClassVar[Mapping[str, str]] = {"scale": "1"}

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return FeatureMap(before.channels, before.height * self.stride, before.width * self.stride)

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
class Pool(Layer):
    """One number for each `size` x `size` pixels.

    padding: pixels around the map that count as not there, on the left and the right together, the odd one on the
    right; so many less than the size as to keep the map's size at stride 1, by default.
    """

    size: int
    stride: int
    padding: int | None = None

    from_zero: ClassVar[tuple[str, ...]] = ("padding",)
    unless_said: ClassVar[Mapping[str, Any]] = {**Layer.unless_said, "padding": None}
    section_options: ClassVar[str] = "size stride stride_x stride_y padding"

    @property
    def around(self) -> int:
        return self.size - 1 if self.padding is None else self.padding

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        height, width = ((side + self.around - self.size) // self.stride + 1 for side in (before.height, before.width))
        return FeatureMap(before.channels, height, width)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "passed"

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        stride = section.stride(1)
        size = section.whole_number("size", stride, 1, 63)
        padding = section.whole_number("padding", size - 1, 0, size - 1)
        return cls(size, stride, None if padding == size - 1 else padding)

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        options: dict[str, object] = {"size": self.size, "stride": self.stride}
        return options if self.padding is None else options | {"padding": self.padding}

    def fits(self, before: FeatureMap) -> bool:
        """Whether as many pixels on the right as on the left give the same."""
        spare = 2 * (self.around // 2) - self.size, self.around - self.size
        return all(
            len({(side + pixels) // self.stride for pixels in spare}) == 1 for side in (before.height, before.width)
        )


@dataclass(frozen=True)
class MaxPool(Pool):
    """Maximum over `size` x `size`; at stride 1 the map keeps its size, unless a padding is given."""

    section: ClassVar[str] = "maxpool"
    training_options: ClassVar[str] = "maxpool_zero_nonmax"
    neutral_options: ClassVar[Mapping[str, str]] = {"maxpool_depth": "0", "out_channels": "1", "antialiasing": "0"}

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        left = self.around // 2
        if self.fits(*taken):
            return nn.MaxPool2d(self.size, self.stride, padding=left)
        return EdgeMaxPool(self.size, self.stride, left, self.around - left)

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        [x] = taken
        left = self.around // 2
        pads = [left] * 4
        if not self.fits(FeatureMap(*graph.taken[0])):  # see EdgeMaxPool
            pads, right = [0] * 4, self.around - left
            ends = graph.constant(f"{name}.pads", np.array([0, 0, left, left, 0, 0, right, right], np.int64))
            x = graph.add("Pad", [x, ends], f"{name}.padded", mode="edge")
        return graph.add("MaxPool", [x], name, kernel_shape=[self.size] * 2, strides=[self.stride] * 2, pads=pads)


@dataclass(frozen=True)
class LocalAveragePool(Pool):
    """The mean of those of `size` x `size` pixels that lie in the map."""

    section: ClassVar[str] = "local_avgpool"

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        [before] = taken
        left, given = self.around // 2, self.given(taken)
        ends = [
            max(0, (count - 1) * self.stride + self.size - left - side)
            for count, side in ((given.height, before.height), (given.width, before.width))
        ]
        return MeanInside(self.size, self.stride, left, (ends[0], ends[1]))


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


@dataclass(frozen=True)
class Reorg(Layer):
    """Squares of `stride` x `stride` pixels become channels: first those of the squares' upper left pixels, then those
    to the right of these, and so on by rows."""

    stride: int = 2

    section: ClassVar[str] = "reorg3d"
    section_options: ClassVar[str] = "stride"
    neutral_options: ClassVar[Mapping[str, str]] = {"reverse": "0"}

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        if before.height % self.stride or before.width % self.stride:
            raise InputError(f"cannot cut {before} into squares of {self.stride} x {self.stride}")
        return FeatureMap(before.channels * self.stride**2, before.height // self.stride, before.width // self.stride)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "repeated"

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return SpaceToDepth(self.stride)

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        return graph.add("SpaceToDepth", taken, name, blocksize=self.stride)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls(section.whole_number("stride", 1, 1, 32))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"stride": self.stride}


class EdgeMaxPool(nn.Module):
    """Maximum over `size` x `size`, with other pixels before the map than behind it.

    Darknet pads with minus infinity there; repeating the edge gives the same maximum and stays finite.
    """

    def __init__(self, size: int, stride: int, before: int, behind: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.pads = (before, behind, before, behind)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.pad(x, self.pads, mode="replicate"), self.size, self.stride)


class MeanInside(nn.Module):
    """The mean over `size` x `size`, without the pixels that lie outside of the map.

    ends: pixels that the last windows reach beyond it, below and on the right.
    """

    def __init__(self, size: int, stride: int, before: int, ends: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.pads = (before, ends[1], before, ends[0])

    def forward(self, x: Tensor) -> Tensor:
        there = functional.pad(torch.ones_like(x[:1, :1]), self.pads)
        shares = functional.avg_pool2d(there, self.size, self.stride)
        return functional.avg_pool2d(functional.pad(x, self.pads), self.size, self.stride) / shares


class SpaceToDepth(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        side = self.stride
        squares = x.reshape(n, channels, height // side, side, width // side, side)
        return squares.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
