"""Convolutions: the one built-in kind with weights."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import nn

from detpress.detector.darknet_section import Section
from detpress.detector.kinds.activation import (
    ACTIVATIONS,
    Activation,
    activation_to_onnx,
    keeps_zeros,
    of_darknet,
    read_activation,
)
from detpress.detector.kinds.yolo import Yolo
from detpress.detector.layer import LARGEST_COUNT, Channels, FeatureMap, Layer
from detpress.errors import InputError, shortened

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph


@dataclass(frozen=True)
class Convolution(Layer):
    """Convolution with zero padding, batch normalisation unless told otherwise, then the activation.

    size: pixels. groups: the filters, and the channels that it takes, are cut into so many parts that see only each
    other; depthwise where a part is one filter and one channel. bias: whether each filter has one; with batch
    normalisation that is in the normalisation. dilation: from one pixel that a filter sees to the next. pad: pixels of
    zeros on each side; by default, half of what a filter spans, so that a map keeps its size at stride 1. Of size,
    stride and pad a pair is that of the height and that of the width.
    """

    filters: int
    size: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    batch_normalize: bool = True
    activation: Activation = "leaky"
    groups: int = 1
    bias: bool = True
    dilation: int = 1
    pad: int | tuple[int, int] | None = None

    from_zero: ClassVar[tuple[str, ...]] = ("pad",)
    unless_said: ClassVar[Mapping[str, Any]] = {**Layer.unless_said, "bias": True, "dilation": 1, "pad": None}
    section: ClassVar[str] = "convolutional"
    section_options: ClassVar[str] = (
        "filters size stride stride_x stride_y pad padding dilation groups batch_normalize cbn activation share_index "
        "xnor"
    )
    training_options: ClassVar[str] = (
        "bin_output grad_centr assisted_excitation angle reverse dot stream wait_stream dontloadscales"
    )
    neutral_options: ClassVar[Mapping[str, str]] = {
        "antialiasing": "0",
        "binary": "0",
        "coordconv": "0",
        "dontload": "0",
        "flipped": "0",
        "rotate": "0",
        "stretch": "0",
        "stretch_sway": "0",
        "sway": "0",
    }

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return _pair(self.size)

    @property
    def strides(self) -> tuple[int, int]:
        """Down and across."""
        return _pair(self.stride)

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros above and below, and on the left and on the right."""
        if self.pad is not None:
            return _pair(self.pad)
        height, width = self.kernel
        return (height // 2 * self.dilation, width // 2 * self.dilation)

    def weight_shape(self, incoming: int) -> tuple[int, int, int, int]:
        """Of a layer that takes so many channels."""
        return (self.filters, incoming // self.groups, *self.kernel)

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        if self.filters % self.groups or before.channels % self.groups:
            raise InputError(f"{self.groups} groups do not divide {before.channels} channels or {self.filters} filters")
        height, width = (
            (side + 2 * padding - self.dilation * (size - 1) - 1) // stride + 1
            for side, size, stride, padding in zip(
                (before.height, before.width), self.kernel, self.strides, self.padding, strict=True
            )
        )
        return FeatureMap(self.filters, height, width)

    def module(self, taken: Sequence[FeatureMap]) -> nn.Sequential:
        [before] = taken
        return self.block(self.float_convolution(before.channels), self.batch_normalize)

    def block(self, convolution: nn.Module, norm: bool) -> nn.Sequential:
        """What computes the convolution, then normalisation, where that is not in it, and the activation."""
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["convolution"] = convolution
        if norm:
            parts["norm"] = nn.BatchNorm2d(self.filters)
        if self.activation != "linear":
            parts["activation"] = ACTIVATIONS[self.activation]()
        return nn.Sequential(parts)

    def float_convolution(self, incoming: int) -> nn.Conv2d:
        """With new weights, without normalisation and activation."""
        bias = self.bias and not self.batch_normalize
        return nn.Conv2d(
            incoming, self.filters, self.kernel, self.stride, self.padding, self.dilation, self.groups, bias
        )

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        return "made" if self.groups == 1 else "filtered"

    @property
    def keeps_zeros(self) -> bool:  # type: ignore[override]
        return keeps_zeros(self.activation)

    @property
    def loses_parts(self) -> bool:
        """Whether a whole part of its filters goes, with the channels that it takes; otherwise, some of each part.

        A depthwise convolution has as many parts as filters. Of few wide parts too much would go at once.
        """
        return self.groups > 1 and self.groups**2 >= self.filters

    def with_filters(self, filters: int) -> "Convolution":
        """With so many filters, in as many groups as there are of their size where it `loses_parts`."""
        groups = self.groups * filters // self.filters if self.loses_parts else self.groups
        return replace(self, filters=filters, groups=groups)

    def parameters(self, taken: Sequence[FeatureMap]) -> int:
        return self._weights(taken) + (2 if self.batch_normalize else int(self.bias)) * self.filters

    def macs(self, taken: Sequence[FeatureMap], given: FeatureMap) -> int:
        return self._weights(taken) * given.height * given.width

    def _weights(self, taken: Sequence[FeatureMap]) -> int:
        filters, incoming, height, width = self.weight_shape(taken[0].channels)
        return filters * incoming * height * width

    def activation_to_onnx(self, graph: "Graph", x: str, name: str) -> str:
        """The convolution's output `x` after the activation; how a convolution is written says its encoding."""
        return activation_to_onnx(graph, self.activation, x, name)

    @classmethod
    def checked(cls, option: str, value: Any) -> Any:
        if option in ("size", "stride", "pad") and isinstance(value, list):
            if len(value) != 2:
                raise InputError(f"expected a whole number, or height and width, got {shortened(value)}")
            return tuple(super(Convolution, cls).checked(option, side) for side in value)
        return super().checked(option, value)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        filters = section.whole_number("filters", 1, 1, LARGEST_COUNT)
        size = section.whole_number("size", 1, 1, 63)
        stride = section.stride(1)
        # Darknet spreads the padding as it does the filter, but counts the map that it gives as if it did neither.
        dilation = section.whole_number("dilation", 1, 1, 32) if size > 1 else 1
        padding = section.whole_number("padding", 0, 0, 63)
        pad = None if section.whole_number("pad", 0, 0, 1) or padding == size // 2 else padding
        if dilation > 1 and (pad is not None or size % 2 == 0):
            raise section.error(f"dilation: {dilation}; computed with pad=1 and an odd size only", "dilation")
        batch_normalize = section.whole_number("batch_normalize", 0, 0, 1) or section.whole_number("cbn", 0, 0, 1)
        activation = read_activation(section, "logistic")  # Darknet's default
        groups = section.whole_number("groups", 1, 1, LARGEST_COUNT)
        return cls(filters, size, stride, bool(batch_normalize), activation, groups, dilation=dilation, pad=pad)

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        height, width = self.kernel
        if height != width:
            raise InputError(f"size {height} x {width}: Darknet has square convolutions only")
        (down, across), (above, beside) = self.strides, self.padding
        if down != across or above != beside:
            raise InputError("Darknet's convolutions have one stride and one padding for both directions")
        options: dict[str, object] = {"batch_normalize": 1} if self.batch_normalize else {}
        options |= {"filters": self.filters, "size": height, "stride": down}
        options |= {"pad": 1} if self.pad is None else {"padding": above}
        options |= {"groups": self.groups} if self.groups > 1 else {}
        options |= {"dilation": self.dilation} if self.dilation > 1 else {}
        logistic = any(isinstance(after, Yolo) and after.new_coords for after in layers[index + 1 : index + 2])
        return options | {"activation": "logistic" if logistic else of_darknet(self.activation)}

    def weights_in_order(self) -> tuple[str, ...]:
        norm = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var")
        bias = ("convolution.bias",) if self.bias else ()
        return (*(norm if self.batch_normalize else bias), "convolution.weight")


def _pair(pixels: int | tuple[int, int]) -> tuple[int, int]:
    return pixels if isinstance(pixels, tuple) else (pixels, pixels)
