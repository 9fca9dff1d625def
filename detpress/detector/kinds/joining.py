"""Layers that bring several maps together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.darknet_section import Section
from detpress.detector.kinds.activation import (
    ACTIVATIONS,
    Activation,
    activation_to_onnx,
    keeps_zeros,
    of_darknet,
    read_activation,
)
from detpress.detector.layer import Channels, FeatureMap, Layer
from detpress.errors import InputError, shortened

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph

Part = tuple[int, int]  # of a map's channels: the first, and the one behind the last


class Add(nn.Module):
    """Adds `other` to `one`; where it has other channels, as many as both have."""

    def __init__(self, channels: int, others: int) -> None:
        super().__init__()
        self.channels, self.others = channels, others

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        if self.others > self.channels:
            other = other[:, : self.channels]
        elif self.others < self.channels:
            other = functional.pad(other, (0, 0, 0, 0, 0, self.channels - self.others))
        return one + other


class Multiply(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one * other


class Concatenate(nn.Module):
    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, dim=1)


class ConcatenateParts(nn.Module):
    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)

    def forward(self, *maps: Tensor) -> Tensor:
        parts = [given[:, first:behind] for given, (first, behind) in zip(maps, self.parts, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def activated(module: nn.Module, activation: Activation) -> nn.Module:
    return module if activation == "linear" else _Activated(module, ACTIVATIONS[activation]())


class _Activated(nn.Module):
    def __init__(self, module: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.module, self.activation = module, activation

    def forward(self, *maps: Tensor) -> Tensor:
        found: Tensor = self.activation(self.module(*maps))
        return found


@dataclass(frozen=True)
class WithSource(Layer):
    """Brings the map of layer `source` together with that of the layer before; then the activation."""

    source: int
    activation: Activation = "linear"

    unless_said: ClassVar[Mapping[str, Any]] = {**Layer.unless_said, "activation": "linear"}
    section_options: ClassVar[str] = "from activation"

    @property
    def refers_to(self) -> tuple[int, ...]:
        return (self.source,)

    def referring_to(self, numbers: Sequence[int]) -> Self:
        return replace(self, source=numbers[0])

    @property
    def keeps_zeros(self) -> bool:  # type: ignore[override]
        return keeps_zeros(self.activation)

    @classmethod
    def checked(cls, option: str, value: Any) -> Any:
        """Whether the layer lies before, the network checks."""
        if option != "source":
            return super().checked(option, value)
        if type(value) is not int:
            raise InputError(f"expected the number of a layer, got {shortened(value)}")
        return value

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        return cls(section.source("from", index), read_activation(section, "linear"))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        return {"from": self.source, "activation": of_darknet(self.activation)}


@dataclass(frozen=True)
class Shortcut(WithSource):
    """Adds the output of layer `source` to the output of the layer before; then the activation.

    Where `source` gives more channels, those at the end are left out; where it gives fewer, the last ones of the layer
    before get nothing.
    """

    section: ClassVar[str] = "shortcut"
    neutral_options: ClassVar[Mapping[str, str]] = {"weights_type": "none"}
    training_options: ClassVar[str] = "weights_normalization"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        before, other = taken
        if (other.height, other.width) != (before.height, before.width):
            raise InputError(f"cannot add {other} of layer {self.source} to {before}")
        return before

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        before, other = taken
        return activated(Add(before.channels, other.channels), self.activation)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "added"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        (one, other), ((before, *_), (source, *_)) = taken, graph.taken
        if source > before:
            other = graph.channels(other, 0, before, f"{name}.part")
        elif source < before:
            ends = np.array([0] * 5 + [before - source, 0, 0], np.int64)
            other = graph.add("Pad", [other, graph.constant(f"{name}.pads", ends)], f"{name}.padded")
        added = graph.add("Add", [one, other], name if self.activation == "linear" else f"{name}.sum")
        return activation_to_onnx(graph, self.activation, added, name)


@dataclass(frozen=True)
class Multiplied(WithSource):
    """Multiplies two maps."""

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        return activated(Multiply(), self.activation)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "multiplied"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        product = graph.add("Mul", taken, name if self.activation == "linear" else f"{name}.product")
        return activation_to_onnx(graph, self.activation, product, name)


@dataclass(frozen=True)
class Sam(Multiplied):
    """Multiplies the output of layer `source` by the output of the layer before, which has the same shape.

    Behind a logistic convolution it is spatial attention: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention
    Module", arXiv:1807.06521, 2018, as YOLOv4 has it, by points.
    """

    section: ClassVar[str] = "sam"

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        before, other = taken
        if other != before:
            raise InputError(f"cannot multiply {other} of layer {self.source} by {before}")
        return before


@dataclass(frozen=True)
class ScaleChannels(Multiplied):
    """Multiplies each channel of layer `source` by the one number that the layer before gives for it.

    With an average pooling and two convolutions before it, the second logistic, this is squeeze and excitation: Hu,
    Shen, Sun, "Squeeze-and-Excitation Networks", arXiv:1709.01507, 2018.
    """

    section: ClassVar[str] = "scale_channels"
    neutral_options: ClassVar[Mapping[str, str]] = {"scale_wh": "0"}  # a number for each channel

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        before, other = taken
        if before != FeatureMap(other.channels, 1):
            raise InputError(f"cannot scale {other} of layer {self.source} by {before}")
        return other


@dataclass(frozen=True)
class Route(Layer):
    """Passes on the outputs of layers `sources`, concatenated over channels.

    groups, group: of each, one of so many equal parts of its channels; the first is 0.
    """

    sources: tuple[int, ...]
    groups: int = 1
    group: int = 0

    from_zero: ClassVar[tuple[str, ...]] = ("group",)
    unless_said: ClassVar[Mapping[str, Any]] = {**Layer.unless_said, "groups": 1, "group": 0}
    takes_before: ClassVar[bool] = False
    section: ClassVar[str] = "route"
    section_options: ClassVar[str] = "layers groups group_id"
    training_options: ClassVar[str] = "stream wait_stream"

    @property
    def refers_to(self) -> tuple[int, ...]:
        return self.sources

    def referring_to(self, numbers: Sequence[int]) -> Self:
        return replace(self, sources=tuple(numbers))

    @property
    def passes_on(self) -> bool:  # type: ignore[override]
        return len(self.sources) == 1 and self.whole

    @property
    def whole(self) -> bool:
        """Whether it takes all channels of its sources."""
        return self.groups == 1

    def taken_parts(self, channels: Sequence[int]) -> tuple[Part, ...]:
        """Of sources with so many channels. Raises InputError where these have no such parts."""
        if any(count % self.groups for count in channels) or self.group >= self.groups:
            of = ", ".join(map(str, channels))
            raise InputError(f"cannot take part {self.group} of {self.groups} equal parts of {of} channels")
        sizes = [count // self.groups for count in channels]
        return tuple((self.group * size, (self.group + 1) * size) for size in sizes)

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        sizes = {(one.height, one.width) for one in taken}
        if len(sizes) > 1:
            pixels = sorted({height for height, _ in sizes} | {width for _, width in sizes})
            raise InputError(f"cannot concatenate maps with sides of {pixels} pixels")
        channels = sum(behind - first for first, behind in self.taken_parts([one.channels for one in taken]))
        return FeatureMap(channels, *sizes.pop())

    def module(self, taken: Sequence[FeatureMap]) -> nn.Module:
        if self.whole:
            return Concatenate()
        return ConcatenateParts(self.taken_parts([one.channels for one in taken]))

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "beside" if self.whole else "part"

    def to_onnx(self, graph: "Graph", taken: Sequence[str], name: str) -> str:
        if not self.whole:
            parts = self.taken_parts([channels for channels, *_ in graph.taken])
            taken = [
                graph.channels(x, *part, f"{name}.part.{k}")
                for k, (x, part) in enumerate(zip(taken, parts, strict=True))
            ]
        return graph.add("Concat", taken, name, axis=1)

    @classmethod
    def checked(cls, option: str, value: Any) -> Any:
        if option == "sources":
            if not isinstance(value, list) or not all(type(source) is int for source in value):
                raise InputError(f"expected a list of numbers of layers, got {shortened(value)}")
            return tuple(value)
        return super().checked(option, value)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        groups = section.whole_number("groups", 1, 1, 1024)
        return cls(section.sources("layers", index), groups, section.whole_number("group_id", 0, 0, groups - 1))

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        options: dict[str, object] = {"layers": ",".join(map(str, self.sources))}
        return options if self.groups == 1 else options | {"groups": self.groups, "group_id": self.group}
