"""Weights of one bit: -1 or 1, times a number a filter.

    weight = (bit ? 1 : -1) * scale         BatchNorm folded into scale and bias

The bits of a layer lie one after the other, without gaps: a 32nd of the float weights. They are decoded once, when the
network is loaded, and computed with in float. Where inputs are signs, too, a sum of products is a count of equal bits:
OpenVINO counts them (`detpress.runtimes.openvino_binary`), PyTorch computes in float, which is why that form is
`simulated`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.encoding import (
    EncodedConvolution,
    Encoding,
    Precision,
    UnpackedConvolution,
    geometry,
    weight_shape,
)
from detpress.detector.geometry import Geometry

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph

COUNTS = ".counts"  # how the name of a convolution of signs by signs ends in a graph


@dataclass(frozen=True)
class Binary(Encoding):
    """A bit a weight, unpacked and computed in float.

    signs: uint8 (bytes,), in the order of the filters' memory, the highest bit of a byte first, 1 for a weight above
    0; scale, bias: float32 (F,).
    """

    stored_bits = 1

    def module(self, like: nn.Conv2d) -> UnpackedConvolution:
        return UnpackedConvolution(self, like, binary_tensors(like))

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return unpacked_signs(tensors["signs"], shape) * tensors["scale"][:, None, None, None]


@dataclass(frozen=True)
class BinaryInputs(Binary):
    """A bit a weight, and a bit a number of the input.

    input_scale: whether what the signs give is multiplied by how large the input is there (see `input_scales`).
    """

    input_scale: bool
    simulated = True
    precision: ClassVar[Precision] = "binary"
    rounds_input = True

    def rounded(self, x: Tensor) -> Tensor:
        return input_signs(x)

    def module(self, like: nn.Conv2d) -> "SignConvolution":
        return SignConvolution(self, like, binary_tensors(like))

    def to_onnx(self, graph: "Graph", x: str, name: str, convolution: EncodedConvolution | nn.Conv2d) -> str:
        """A convolution of signs, and apart from it what it is multiplied by."""
        tensors, how = convolution.state_dict(), geometry(convolution)
        zero, one, minus_one = (graph.scalar(np.float32(number)) for number in (0, 1, -1))
        positive = graph.add("Greater", [x, zero], f"{name}.positive")
        signs = graph.add("Where", [positive, one, minus_one], f"{name}.signs")
        weight = unpacked_signs(tensors["signs"], weight_shape(convolution))
        constants = {"weight": weight, "scale": tensors["scale"][:, None, None], "bias": tensors["bias"][:, None, None]}
        of = {part: graph.constant(f"{name}.{part}", tensor.numpy()) for part, tensor in constants.items()}
        y = graph.add("Conv", [signs, of["weight"]], f"{name}{COUNTS}", **how.in_onnx())
        y = graph.add("Mul", [y, of["scale"]], f"{name}.scaled")
        if self.input_scale:
            sizes = input_scales_to_onnx(graph, x, f"{name}.input", how)
            y = graph.add("Mul", [y, sizes], f"{name}.rescaled")
        return graph.add("Add", [y, of["bias"]], name)


class SignConvolution(UnpackedConvolution):
    """Sums signs first, then multiplies: whole numbers are the same in whatever order a runtime adds them."""

    encoding: BinaryInputs

    def forward(self, x: Tensor) -> Tensor:
        how, tensors, x_signs = self.geometry, self.tensors(), self.encoding.rounded(x)
        signs = self.get_buffer("decoded").sign()  # those of a negative scale turned
        sums = functional.conv2d(x_signs, signs, None, how.stride, how.padding, how.dilation, how.groups)
        found = sums * tensors["scale"].abs()[:, None, None]
        if self.encoding.input_scale:
            found = found * input_scales(x, how)
        return found + tensors["bias"][:, None, None]


def binary_tensors(like: nn.Conv2d) -> dict[str, Tensor]:
    filters = like.out_channels
    signs = torch.zeros(-(-like.weight.numel() // 8), dtype=torch.uint8)
    return {"signs": signs, "scale": torch.ones(filters), "bias": torch.zeros(filters)}


def packed_signs(weight: Tensor) -> Tensor:
    """A bit a weight, 1 where it is above 0: (F, I, k, k) -> uint8 (bytes,)."""
    return torch.from_numpy(np.packbits((weight > 0).flatten().numpy()))


def unpacked_signs(stored: Tensor, shape: torch.Size) -> Tensor:
    """-1 and 1, float32 of `shape`."""
    bits = np.unpackbits(stored.numpy(), count=shape.numel())
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1).reshape(shape)


def input_signs(x: Tensor) -> Tensor:
    """1 where x is above 0, -1 elsewhere."""
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def input_scales(x: Tensor, how: Geometry) -> Tensor:
    """XNOR-Net's K: the mean of |x| over the channels and the places that a filter sees.

    x: (N, C, H, W); how: the filter moves. Returns (N, 1, H', W').
    """
    return functional.conv2d(
        x.abs().mean(1, keepdim=True), box_of(how).to(x), None, how.stride, how.padding, how.dilation
    )


def box_of(how: Geometry) -> Tensor:
    """The weights of a mean over the places that a filter sees: float32 (1, 1, k, k)."""
    height, width = how.kernel_size
    return torch.full((1, 1, height, width), 1 / (height * width))


def input_scales_to_onnx(graph: "Graph", x: str, name: str, how: Geometry) -> str:
    """`input_scales`, by pooling where it can: several times as fast as a convolution of one channel."""
    mean = graph.add("ReduceMean", [graph.add("Abs", [x], f"{name}.size")], f"{name}.mean", axes=[1])
    of = how._replace(groups=1).in_onnx()
    if how.dilation == (1, 1) and all(pad < size for pad, size in zip(how.padding, how.kernel_size, strict=True)):
        del of["group"]
        return graph.add("AveragePool", [mean], f"{name}.scale", **of, count_include_pad=1)
    return graph.add("Conv", [mean, graph.constant(f"{name}.box", box_of(how).numpy())], f"{name}.scale", **of)
