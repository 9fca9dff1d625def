"""8-bit integers: int8 weights, and the scale of the convolution's input.

A convolution takes its input rounded to 8 bits (unsigned, one scale and zero point a tensor), its weights in 8
bits (signed, one scale a filter), BatchNorm folded in, and a float bias:

    x  ->  quantize(scale, zero point)  ->  dequantize  ->  convolution(dequantize(int8 weight)) + bias  ->  activation

as in Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877, 2018. Eager PyTorch computes this in float, with the values that integers would give; compilers
(OpenVINO, ONNX Runtime, torch.compile) recognise the pattern and execute it in integers. They get it with the tensors
between convolutions rounded as well, see `detpress/encodings/int8_onnx.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from detpress.detector.encoding import EncodedConvolution, Encoding, Precision, geometry
from detpress.detector.input_scale import InputScale
from detpress.detector.network import Network

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph

LARGEST, LARGEST_IN_PAIRS = 127, 64  # codes of weights


@dataclass(frozen=True)
class Int8(Encoding):
    """8 bits a weight, computed in integers on an input that is rounded in a way fixed before.

    weight: int8 (F, I, k, k); weight_scale: float32 (F,); bias: float32 (F,).

    input: how the input is rounded.
    """

    input: InputScale
    stored_bits = 8
    precision: ClassVar[Precision] = "int8"
    rounds_input = True

    def module(self, like: nn.Conv2d) -> EncodedConvolution:
        return Int8Convolution(self, like, int8_tensors(like))

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return tensors["weight"].float() * tensors["weight_scale"][:, None, None, None]

    def rounded(self, x: Tensor) -> Tensor:
        return self.input.rounded(x)

    def to_onnx(self, graph: "Graph", x: str, name: str, convolution: EncodedConvolution | nn.Conv2d) -> str:
        tensors = {key: tensor.numpy() for key, tensor in convolution.state_dict().items()}
        weight = graph.constant(f"{name}.weight", tensors["weight"])
        bias = graph.constant(f"{name}.bias", tensors["bias"])
        scales = graph.constant(f"{name}.weight_scale", tensors["weight_scale"])
        zeros = graph.constant(f"{name}.weight_zero_point", np.zeros(len(tensors["bias"]), np.int8))
        x = graph.rounded(x, self.input)
        weight = graph.add("DequantizeLinear", [weight, scales, zeros], f"{name}.weight.float", axis=0)
        return graph.add("Conv", [x, weight, bias], name, **geometry(convolution).in_onnx())


def largest_code(inputs: int, outputs: int, groups: int) -> int:
    """Of a convolution's weights, such that every processor computes the same of them.

    x86 processors without VNNI or AMX multiply bytes two by two and saturate the sum of both products at 16 bits:
    255 * (64 + 64) fits, 255 * (127 + 127) does not. A depthwise convolution's kernels widen the numbers before they
    multiply, so its weights have the whole range.
    """
    depthwise = 1 < groups == inputs == outputs
    return LARGEST if depthwise else LARGEST_IN_PAIRS


def int8_tensors(like: nn.Conv2d) -> dict[str, Tensor]:
    """Of symmetric int8 weights, one scale a filter."""
    return {
        "weight": torch.zeros(like.weight.shape, dtype=torch.int8),
        "weight_scale": torch.ones(like.out_channels),
        "bias": torch.zeros(like.out_channels),
    }


class Int8Convolution(EncodedConvolution):
    """Computes with the operators that compilers recognise; the numbers are those of `Int8.weight`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoding.rounded(x)  # first: registers the operators
        tensors = self.tensors()
        zeros = torch.zeros_like(tensors["weight_scale"], dtype=torch.int64)
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            tensors["weight"], tensors["weight_scale"], zeros, 0, -128, 127, torch.int8
        )
        return self.convolved(x, weight)


def input_scales(network: nn.Module) -> dict[int, InputScale]:
    """Of the convolutions in int8, by layer number."""
    assert isinstance(network, Network)
    return {i: encoding.input for i, encoding in network.encodings.items() if isinstance(encoding, Int8)}
