"""Convolutions: the one built-in kind with weights."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
from torch import nn

from detpress.detector.darknet_section import Section
from detpress.detector.layer import LARGEST_COUNT, Channels, FeatureMap, Layer
from detpress.errors import InputError, shortened

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph

# As Darknet names them and defines them, but for hard_swish, which it has not:
#   leaky      x, 0.1 x below 0          logistic   1 / (1 + exp(-x))          mish         x tanh(log(1 + exp(x)))
#   relu       x, 0 below 0              swish      x / (1 + exp(-x))          hard_swish   x min(max(x + 3, 0), 6) / 6
#   relu6      min(max(x, 0), 6)         linear     x
Activation = Literal["leaky", "relu", "linear", "relu6", "logistic", "swish", "mish", "hard_swish"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "logistic": nn.Sigmoid,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "hard_swish": nn.Hardswish,
}
_OF_DARKNET: dict[str, Activation] = {name: name for name in get_args(Activation) if name != "hard_swish"}


@dataclass(frozen=True)
class Convolution(Layer):
    """Convolution with `size // 2` zero padding, batch normalisation unless told otherwise, then the activation.

    size: pixels, of the height and the width where it is a pair. groups: the filters, and the channels that it takes,
    are cut into so many parts that see only each other; depthwise where a part is one filter and one channel.
    bias: whether each filter has one; with batch normalisation that is in the normalisation.
    """

    filters: int
    size: int | tuple[int, int]
    stride: int = 1
    batch_normalize: bool = True
    activation: Activation = "leaky"
    groups: int = 1
    bias: bool = True

    unless_said: ClassVar[Mapping[str, Any]] = {**Layer.unless_said, "bias": True}
    section: ClassVar[str] = "convolutional"
    section_options: ClassVar[str] = "filters size stride pad padding groups batch_normalize activation"

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros above and below, and on the left and on the right."""
        height, width = self.kernel
        return (height // 2, width // 2)

    def weight_shape(self, incoming: int) -> tuple[int, int, int, int]:
        """Of a layer that takes so many channels."""
        return (self.filters, incoming // self.groups, *self.kernel)

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        if self.filters % self.groups or before.channels % self.groups:
            raise InputError(f"{self.groups} groups do not divide {before.channels} channels or {self.filters} filters")
        sides = {
            (before.side + 2 * padding - size) // self.stride + 1
            for size, padding in zip(self.kernel, self.padding, strict=True)
        }
        if len(sides) > 1:
            raise InputError(f"size {self.size}: gives a map of {sorted(sides)} pixels; expected a square")
        return FeatureMap(self.filters, sides.pop())

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
        return nn.Conv2d(incoming, self.filters, self.kernel, self.stride, self.padding, groups=self.groups, bias=bias)

    def channels(self, taken: Sequence[FeatureMap]) -> Channels:
        if self.groups == 1:
            return "made"
        return "filtered" if self.groups == self.filters == taken[0].channels else "fixed"

    @property
    def keeps_zeros(self) -> bool:  # type: ignore[override]
        return self.activation != "logistic"

    def with_filters(self, filters: int) -> "Convolution":
        """With so many filters; a depthwise convolution has as many groups."""
        return replace(self, filters=filters, groups=filters if 1 < self.groups == self.filters else self.groups)

    def parameters(self, taken: Sequence[FeatureMap]) -> int:
        return self._weights(taken) + (2 if self.batch_normalize else int(self.bias)) * self.filters

    def macs(self, taken: Sequence[FeatureMap], given: FeatureMap) -> int:
        return self._weights(taken) * given.side**2

    def _weights(self, taken: Sequence[FeatureMap]) -> int:
        filters, incoming, height, width = self.weight_shape(taken[0].channels)
        return filters * incoming * height * width

    def activation_to_onnx(self, graph: "Graph", x: str, name: str) -> str:
        """The convolution's output `x` after the activation; how a convolution is written says its encoding."""
        match self.activation:
            case "leaky":
                return graph.add("LeakyRelu", [x], name, alpha=0.1)
            case "relu":
                return graph.add("Relu", [x], name)
            case "relu6":
                return graph.add("Clip", [x, *(graph.scalar(np.float32(end)) for end in (0, 6))], name)
            case "logistic":
                return graph.add("Sigmoid", [x], name)
            case "swish":
                return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{name}.sigmoid")], name)
            case "mish":
                softplus = graph.add("Softplus", [x], f"{name}.softplus")
                return graph.add("Mul", [x, graph.add("Tanh", [softplus], f"{name}.tanh")], name)
            case "hard_swish":
                return graph.add("HardSwish", [x], name)
            case "linear":
                return x

    @classmethod
    def checked(cls, option: str, value: Any) -> Any:
        if option == "size" and isinstance(value, list):
            if len(value) != 2:
                raise InputError(f"expected a whole number, or height and width, got {shortened(value)}")
            return tuple(super(Convolution, cls).checked(option, side) for side in value)
        return super().checked(option, value)

    @classmethod
    def from_section(cls, section: Section, index: int) -> Self:
        filters = section.whole_number("filters", 1, 1, LARGEST_COUNT)
        size = section.whole_number("size", 1, 1, 63)
        stride = section.whole_number("stride", 1, 1, 32)
        padding = section.whole_number("padding", 0, 0, 63)
        if section.whole_number("pad", 0, 0, 1):
            padding = size // 2
        if padding != size // 2:
            raise section.error(f"padding: {padding}; only pad=1, half the size, is computed", "padding")
        batch_normalize = section.whole_number("batch_normalize", 0, 0, 1)
        activation = section.word("activation", "logistic")  # Darknet's default
        if activation not in _OF_DARKNET:
            raise section.error(f"activation: {activation[:40]}; {', '.join(_OF_DARKNET)} are supported", "activation")
        groups = section.whole_number("groups", 1, 1, LARGEST_COUNT)
        return cls(filters, size, stride, bool(batch_normalize), _OF_DARKNET[activation], groups)

    def to_section(self, index: int, layers: Sequence[Layer], classes: int) -> dict[str, object]:
        height, width = self.kernel
        if height != width:
            raise InputError(f"size {height} x {width}: Darknet has square convolutions only")
        if self.activation not in _OF_DARKNET:
            raise InputError(f"activation: Darknet has no {self.activation}")
        options: dict[str, object] = {"batch_normalize": 1} if self.batch_normalize else {}
        options |= {"filters": self.filters, "size": height, "stride": self.stride, "pad": 1}
        options |= {"groups": self.groups} if self.groups > 1 else {}
        return options | {"activation": self.activation}

    def weights_in_order(self) -> tuple[str, ...]:
        norm = ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var")
        bias = ("convolution.bias",) if self.bias else ()
        return (*(norm if self.batch_normalize else bias), "convolution.weight")
