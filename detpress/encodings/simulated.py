"""Simulated quantization: the numbers are those that few bits allow, the arithmetic is float.

What quantization-aware training leaves behind, as plain data and without the engine that trained it. A quantized
convolution holds the codes of its weights, and may round its input:

    x  ->  nearest of the input's grid  ->  convolution((code - zero point) * scale) + bias  ->  activation

BatchNorm is folded in: what it multiplies a filter by is part of the filter's scale, what it adds is part of the bias.
So one record serves every method, whatever it does to its weights while it trains: uniform steps, symmetric or affine,
of a tensor or of a filter (QAT, PTQ, LSQ, LSQ+), DoReFa's levels, or -1 and 1 (BNN).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from detpress.detector.architecture import Convolution
from detpress.detector.encoding import EncodedConvolution, Encoding, geometry, weight_shape
from detpress.detector.folding import batch_norm_of
from detpress.detector.network import Network, convolution_name, filled_network, folded_but
from detpress.encodings.int8 import int8_tensors
from detpress.errors import InputError

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph


@dataclass(frozen=True)
class Grid:
    """The values that an activation may take: (q - zero_point) * scale for the integers q from lowest to highest.

    zero_point: an integer where the method keeps zero exact; LSQ+ learns any number, and -1 and 1 are
    Grid(0, 1, scale=2.0, zero_point=0.5).
    """

    lowest: int
    highest: int
    scale: float
    zero_point: float

    def __post_init__(self) -> None:
        if not (-128 <= self.lowest < self.highest <= 255 and self.bits <= 8):
            raise InputError(f"not a range of at most 8 bits: {self}")
        if not (0 < self.scale < math.inf and math.isfinite(self.zero_point)):
            raise InputError(f"no scale and zero point of a grid: {self}")

    @property
    def bits(self) -> int:
        """How many bits tell the values apart."""
        return (self.highest - self.lowest).bit_length()

    def nearest(self, x: Tensor) -> Tensor:
        """Every element replaced by the value nearest to it; half-way, by the even q, and of two values the upper."""
        if self.highest - self.lowest == 1:
            middle = (self.lowest + 0.5 - self.zero_point) * self.scale
            q = torch.where(x >= middle, float(self.highest), float(self.lowest))
        else:
            q = torch.round(torch.clamp(x / self.scale + self.zero_point, self.lowest, self.highest))
        return (q - self.zero_point) * self.scale

    def to_onnx(self, graph: "Graph", x: str, name: str) -> str:
        """The same of `x`, as nodes of a graph."""
        numbers = (self.scale, self.zero_point, self.lowest, self.highest)
        scale, zero_point, lowest, highest = (graph.scalar(np.float32(number)) for number in numbers)
        if self.highest - self.lowest == 1:
            middle = graph.scalar(np.float32((self.lowest + 0.5 - self.zero_point) * self.scale))
            upper = graph.add("Not", [graph.add("Less", [x, middle], f"{name}.lower")], f"{name}.upper")
            q = graph.add("Where", [upper, highest, lowest], f"{name}.q")
        else:
            steps = graph.add("Add", [graph.add("Div", [x, scale], f"{name}.steps"), zero_point], f"{name}.shifted")
            q = graph.add("Round", [graph.add("Clip", [steps, lowest, highest], f"{name}.bounded")], f"{name}.q")
        return graph.add("Mul", [graph.add("Sub", [q, zero_point], f"{name}.centred"), scale], f"{name}.rounded")


@dataclass(frozen=True)
class Simulated(Encoding):
    """At most 8 bits a weight, and a rounded input if it was trained with one, computed in float.

    A weight is (code - zero point) * scale; the zero points are 0 where the grid is symmetric.

    weight: int8 (F, I, k, k), the codes; weight_scale, weight_zero_point and bias: float32 (F,).

    weight_bits: how many bits tell the codes of the weights apart.
    input: what the input is rounded to; None leaves it in float.
    """

    weight_bits: int
    input: Grid | None
    simulated = True

    def __post_init__(self) -> None:
        if not 1 <= self.weight_bits <= 8:
            raise InputError(f"weights of {self.weight_bits} bits; expected 1 to 8")

    @property
    def stored_bits(self) -> int:
        return self.weight_bits

    @property
    def rounds_input(self) -> bool:
        return self.input is not None

    def module(self, like: nn.Conv2d) -> EncodedConvolution:
        return EncodedConvolution(
            self, like, int8_tensors(like) | {"weight_zero_point": torch.zeros(like.out_channels)}
        )

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        zero_point, scale = (tensors[name][:, None, None, None] for name in ("weight_zero_point", "weight_scale"))
        return (tensors["weight"].float() - zero_point) * scale

    def rounded(self, x: Tensor) -> Tensor:
        return x if self.input is None else self.input.nearest(x)

    def stored_bytes(self, tensors: Mapping[str, Tensor]) -> int:
        """The codes one after the other without a gap, and no zero points where they are all 0."""
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        sizes["weight"] = -(-tensors["weight"].numel() * self.weight_bits // 8)
        if not tensors["weight_zero_point"].any():
            del sizes["weight_zero_point"]
        return sum(sizes.values())

    def to_onnx(self, graph: "Graph", x: str, name: str, convolution: EncodedConvolution | nn.Conv2d) -> str:
        tensors = convolution.state_dict()
        weight = self.weight(tensors, weight_shape(convolution))
        x = x if self.input is None else self.input.to_onnx(graph, x, f"{name}.input")
        return graph.convolution(x, name, geometry(convolution), weight, tensors["bias"])


@dataclass(frozen=True)
class Codes:
    """The weights of one convolution, or of one whose BatchNorm is already folded into them (`folded`).

    A weight is (code - zero_point) * scale. codes: integers from lowest to highest, of any dtype, (F, I, k, k);
    scale, zero_point: float32 (F,). bits: how many tell the codes apart. input: see `Simulated`.
    """

    codes: Tensor
    lowest: int
    highest: int
    bits: int
    scale: Tensor
    zero_point: Tensor
    input: Grid | None
    folded: bool


def simulated_network(network: Network, quantized: Mapping[int, Codes]) -> Network:
    """`network` with the weights of some convolutions, by layer number, replaced by codes; BatchNorm folded in.

    A scale is positive: where BatchNorm turns a filter's sign, its codes are mirrored within their range.
    """
    encodings = {i: Simulated(layer.bits, layer.input) for i, layer in sorted(quantized.items())}
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(network.architecture.layers):
        if not isinstance(layer, Convolution):
            tensors |= {f"layers.{i}.{part}": tensor for part, tensor in network.layers[i].state_dict().items()}
            continue
        name = convolution_name(i)
        gain, bias = batch_norm_of(network, i)
        tensors[f"{name}.bias"] = bias.clone()
        if i not in quantized:
            tensors[f"{name}.weight"] = network.get_parameter(f"{name}.weight").detach() * gain[:, None, None, None]
            continue
        weights = quantized[i]
        factor = torch.ones_like(gain) if weights.folded else gain
        mirrored, both = factor < 0, weights.lowest + weights.highest
        codes = torch.where(mirrored[:, None, None, None], both - weights.codes, weights.codes)
        zero_point = torch.where(mirrored, both - weights.zero_point, weights.zero_point)
        offset = 128 if weights.highest > 127 else 0
        tensors[f"{name}.weight"] = (codes - offset).to(torch.int8)
        tensors[f"{name}.weight_zero_point"] = zero_point - offset
        tensors[f"{name}.weight_scale"] = weights.scale * factor.abs()
    return filled_network(network.architecture, folded_but(network.architecture, encodings), tensors)


def with_zeros_of(network: nn.Module, source: nn.Module) -> nn.Module:
    """`network`, each weight 1 where that of `source` is not 0, and biases 1: for plans, where no engine has chosen
    numbers yet."""
    weights = source.state_dict()
    for name, tensor in network.state_dict().items():
        if name.endswith("convolution.weight"):
            tensor.copy_(weights[name] != 0)
        elif name.endswith("convolution.bias"):
            tensor.fill_(1.0)
    return network.eval().requires_grad_(False)
