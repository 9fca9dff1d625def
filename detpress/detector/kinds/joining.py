"""Layers that bring several maps together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from detpress.detector.darknet_section import Section
from detpress.detector.layer import Channels, FeatureMap, Layer
from detpress.errors import InputError, shortened

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph


class Add(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


class Multiply(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one * other


class Concatenate(nn.Module):
    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=1)


@dataclass(frozen=True)
class WithSource(Layer):
    """Brings the map of layer `source` together with that of the layer before."""

    source: int

    @property
    def refers_to(self) -> tuple[int, ...]:
        return (self.source,)

    def referring_to(self, numbers: Sequence[int]) -> Self:
        return replace(self, source=numbers[0])

    @classmethod
    def checked(cls, option: str, value: Any) -> int:
        """Whether the layer lies before, the network checks."""
        if type(value) is not int:
            raise InputError(f"expected the number of a layer, got {shortened(value)}")
        return value

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"from": self.source, "activation": "linear"}


@dataclass(frozen=True)
class Shortcut(WithSource):
    """Adds the output of layer `source` to the output of the layer before."""

    section: ClassVar[str] = "shortcut"
    section_options: ClassVar[str] = "from activation"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        before, other = taken
        if other != before:
            raise InputError(f"cannot add {other} of layer {self.source} to {before}")
        return before

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return Add()

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "added"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        return graph.add("Add", taken, name)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls(section.source("from", index))


@dataclass(frozen=True)
class ScaleChannels(WithSource):
    """Multiplies each channel of layer `source` by the one number that the layer before gives for it.

    With an average pooling and two convolutions before it, the second logistic, this is squeeze and excitation: Hu,
    Shen, Sun, "Squeeze-and-Excitation Networks", arXiv:1709.01507, 2018.
    """

    section: ClassVar[str] = "scale_channels"
    section_options: ClassVar[str] = "from activation scale_wh"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        before, other = taken
        if before != FeatureMap(other.channels, 1):
            raise InputError(f"cannot scale {other} of layer {self.source} by {before}")
        return other

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return Multiply()

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "multiplied"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        return graph.add("Mul", taken, name)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        if section.whole_number("scale_wh", 0, 0, 1):
            raise section.error("scale_wh: only 0, a number for each channel, is computed", "scale_wh")
        return cls(section.source("from", index))


@dataclass(frozen=True)
class Route(Layer):
    """Passes on the outputs of layers `sources`, concatenated over channels."""

    sources: tuple[int, ...]

    takes_before: ClassVar[bool] = False
    section: ClassVar[str] = "route"
    section_options: ClassVar[str] = "layers"

    @property
    def refers_to(self) -> tuple[int, ...]:
        return self.sources

    def referring_to(self, numbers: Sequence[int]) -> Self:
        return replace(self, sources=tuple(numbers))

    @property
    def passes_on(self) -> bool:  # type: ignore[override]
        return len(self.sources) == 1

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        sides = {one.side for one in taken}
        if len(sides) > 1:
            raise InputError(f"cannot concatenate maps with sides of {sorted(sides)} pixels")
        return FeatureMap(sum(one.channels for one in taken), sides.pop())

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return Concatenate()

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "beside"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        return graph.add("Concat", taken, name, axis=1)

    @classmethod
    def checked(cls, option: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not all(type(source) is int for source in value):
            raise InputError(f"expected a list of numbers of layers, got {shortened(value)}")
        return tuple(value)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls(section.sources("layers", index))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"layers": ",".join(map(str, self.sources))}
