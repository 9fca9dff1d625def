"""A network whose quantization is simulated: the numbers are those that few bits allow, the arithmetic is float.

What quantization-aware training leaves behind, as plain data and without the engine that trained it. Every quantized
convolution holds the codes of its weights, and may round its input:

    x  ->  nearest of the input's grid  ->  convolution((code - zero point) * scale) + bias  ->  activation

BatchNorm is folded in: what it multiplies a filter by is part of the filter's scale, what it adds is part of the bias.
So one record serves every method, whatever it does to its weights while it trains: uniform steps, symmetric or affine,
of a tensor or of a filter (QAT, PTQ, LSQ, LSQ+), DoReFa's levels, or -1 and 1 (BNN).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.folding import batch_norm_of
from detpress.detector.network import Network, run_layers
from detpress.encodings.quantized import folded_layers
from detpress.errors import InputError
from detpress.files.plain_json import check_keys


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


@dataclass(frozen=True)
class SimulatedLayer:
    """How one convolution is quantized; its weights' scales and zero points are tensors of the network.

    weight_bits: how many bits tell the codes of the weights apart.
    input: what the input is rounded to; None leaves it in float.
    """

    weight_bits: int
    input: Grid | None

    def __post_init__(self) -> None:
        if not 1 <= self.weight_bits <= 8:
            raise InputError(f"weights of {self.weight_bits} bits; expected 1 to 8")


@dataclass(frozen=True)
class Simulation:
    """Which convolutions are quantized and how, by layer number; the others are in float."""

    layers: Mapping[int, SimulatedLayer]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        return {"layers": {str(i): asdict(layer) for i, layer in self.layers.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Simulation":
        """Raises InputError where `data` does not describe a simulation."""
        check_keys("simulation", data, ("layers",))
        try:
            return cls({int(i): _layer_from_dict(layer) for i, layer in data["layers"].items()})
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError("not the description of a simulated quantization") from error


def _layer_from_dict(data: dict[str, Any]) -> SimulatedLayer:
    check_keys("simulation: layer", data, ("weight_bits", "input"))
    grid = data["input"]
    return SimulatedLayer(int(data["weight_bits"]), None if grid is None else _grid_from_dict(grid))


def _grid_from_dict(data: dict[str, Any]) -> Grid:
    check_keys("simulation: input", data, ("lowest", "highest", "scale", "zero_point"))
    return Grid(int(data["lowest"]), int(data["highest"]), float(data["scale"]), float(data["zero_point"]))


@dataclass(frozen=True)
class Codes:
    """The weights of one convolution, or of one whose BatchNorm is already folded into them (`folded`).

    A weight is (code - zero_point) * scale. codes: integers from lowest to highest, of any dtype, (F, I, k, k);
    scale, zero_point: float32 (F,). bits: how many tell the codes apart. input: see `SimulatedLayer`.
    """

    codes: Tensor
    lowest: int
    highest: int
    bits: int
    scale: Tensor
    zero_point: Tensor
    input: Grid | None
    folded: bool


def simulated_network(network: Network, quantized: Mapping[int, Codes]) -> "SimulatedNetwork":
    """`network` with the weights of some convolutions, by layer number, replaced by codes; BatchNorm folded in.

    A scale is positive: where BatchNorm turns a filter's sign, its codes are mirrored within their range.
    """
    simulation = Simulation({i: SimulatedLayer(layer.bits, layer.input) for i, layer in sorted(quantized.items())})
    with torch.device("meta"):
        simulated = SimulatedNetwork(network.architecture, simulation)
    tensors = {}
    for i, layer in enumerate(network.architecture.layers):
        if not isinstance(layer, Convolution):
            continue
        name = f"layers.{i}.convolution"
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
    simulated.load_state_dict(tensors, assign=True)
    return simulated.eval().requires_grad_(False)


def with_zeros_of(network: nn.Module, source: nn.Module) -> nn.Module:
    """`network`, each weight 1 where that of `source` is not 0: for plans, where no engine has chosen numbers yet."""
    weights = source.state_dict()
    for name, tensor in network.state_dict().items():
        if name.endswith("convolution.weight"):
            tensor.copy_(weights[name] != 0)
    return network.eval().requires_grad_(False)


class SimulatedNetwork(nn.Module):
    """Gives raw maps like `Network`. Its weights are int8 codes, buffers to be filled by `load_state_dict`.

    Raises InputError where a layer to be quantized is no convolution.
    """

    def __init__(self, architecture: Architecture, simulation: Simulation) -> None:
        super().__init__()
        self.architecture = architecture
        self.simulation = simulation
        self.layers = folded_layers(
            architecture,
            simulation.layers.keys(),
            "quantized",
            lambda i, incoming, layer: SimulatedConvolution(incoming, layer, simulation.layers[i]),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1]. Returns the raw maps, float32, as `Network.forward` does."""
        return run_layers(self.architecture, self.layers, images)


class SimulatedConvolution(nn.Module):
    """A weight is (code - zero point) * scale; the zero points are 0 where the grid is symmetric.

    weight: int8 (F, I, k, k), the codes; weight_scale, weight_zero_point and bias: float32 (F,).
    """

    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias: Tensor

    def __init__(self, incoming: int, layer: Convolution, simulated: SimulatedLayer) -> None:
        super().__init__()
        shape = layer.weight_shape(incoming)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(layer.filters))
        self.register_buffer("weight_zero_point", torch.zeros(layer.filters))
        self.register_buffer("bias", torch.zeros(layer.filters))
        self.layer = layer
        self.simulated = simulated

    @property
    def float_weight(self) -> Tensor:
        """The values that the codes stand for: float32 (F, I, k, k)."""
        zero_point, scale = self.weight_zero_point[:, None, None, None], self.weight_scale[:, None, None, None]
        return (self.weight.float() - zero_point) * scale

    def forward(self, x: Tensor) -> Tensor:
        grid, layer = self.simulated.input, self.layer
        if grid is not None:
            x = grid.nearest(x)
        return layer.convolve(x, self.float_weight, self.bias)
