"""An int8 network that needs no engine: the layer list, int8 weights, and the scale of every convolution's input.

Each convolution takes its input rounded to 8 bits (unsigned, one scale and zero point a tensor), its weights in 8
bits (signed, one scale a filter), BatchNorm folded in, and a float bias:

    x  ->  quantize(scale, zero point)  ->  dequantize  ->  convolution(dequantize(int8 weight)) + bias  ->  activation

as in Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877, 2018. Eager PyTorch computes this in float, with the values that integers would give; compilers
(OpenVINO, ONNX Runtime, torch.compile) recognise the pattern and execute it in integers. They get it with the tensors
between convolutions rounded as well, see `detpress/encodings/int8_onnx.py`.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.kinds.convolution import add_activation
from detpress.detector.network import as_it_is, run_layers
from detpress.errors import InputError
from detpress.files.plain_json import check_keys

MIDDLE = 127  # the zero point of a symmetric scale, as INC has it


@dataclass(frozen=True)
class InputScale:
    """How an operator's input is rounded: uint8 q stands for (q - zero_point) * scale."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.zero_point <= 255):
            raise InputError(f"no scale of 8-bit numbers: {self}")

    @classmethod
    def of_range(cls, low: float, high: float, symmetric: bool = False) -> "InputScale":
        """The finest scale that holds 0 exactly and everything from `low` to `high`; symmetric: 0 is in the middle."""
        low, high = min(low, 0.0), max(high, 0.0)
        if symmetric:
            return cls(2 * max(-low, high) / 255 or 1.0, MIDDLE)
        scale = (high - low) / 255 or 1.0
        return cls(scale, round(-low / scale))

    def rounded(self, x: Tensor) -> Tensor:
        """float32 of any shape -> its nearest values that 8 bits can hold, as float32."""
        # Registers torch.ops.quantized_decomposed; here, because what runs in another runtime shall do without.
        from torch.ao.quantization.fx import _decomposed  # noqa: F401

        q = torch.ops.quantized_decomposed
        x = q.quantize_per_tensor(x, self.scale, self.zero_point, 0, 255, torch.uint8)
        found: Tensor = q.dequantize_per_tensor(x, self.scale, self.zero_point, 0, 255, torch.uint8)
        return found


@dataclass(frozen=True)
class Quantization:
    """Which convolutions are in int8, and the scales of what they take and of what lies between them.

    inputs: of each convolution in int8, by layer number; the others are in float.
    between: of what other operators take, by tensor: `layers.3.convolution` is what that convolution gives to its
    activation, `layers.4` what layer 4 gives. Only the graphs for runtimes round these (see `int8_onnx`).
    """

    inputs: Mapping[int, InputScale]
    between: Mapping[str, InputScale] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        return {
            "inputs": {str(i): [scale.scale, scale.zero_point] for i, scale in self.inputs.items()},
            "between": {name: [scale.scale, scale.zero_point] for name, scale in self.between.items()},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Quantization":
        """Raises InputError where `data` does not describe a quantization."""
        check_keys("quantization", data, ("inputs", "between"))
        try:
            inputs = {int(i): InputScale(float(scale), int(zero)) for i, (scale, zero) in data["inputs"].items()}
            between = {name: InputScale(float(scale), int(zero)) for name, (scale, zero) in data["between"].items()}
            return cls(inputs, between)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError("not the description of a quantization") from error


class QuantizedNetwork(nn.Module):
    """Gives raw maps like `Network`. Its weights are int8 buffers, to be filled by `load_state_dict`.

    Raises InputError where a layer to be quantized is no convolution.
    """

    def __init__(self, architecture: Architecture, quantization: Quantization) -> None:
        super().__init__()
        self.architecture = architecture
        self.quantization = quantization
        self.layers = folded_layers(
            architecture,
            quantization.inputs.keys(),
            "quantized",
            lambda i, incoming, layer: QuantizedConvolution(incoming, layer, quantization.inputs[i]),
        )

    def forward(self, images: Tensor, taken: Callable[[int, Tensor], Tensor] = as_it_is) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1]. Returns the raw maps, float32, as `Network.forward` does.

        taken: see `run_layers`.
        """
        return run_layers(self.architecture, self.layers, images, taken)


class QuantizedConvolution(nn.Module):
    """weight: int8 (F, I, k, k); weight_scale: float32 (F,); bias: float32 (F,)."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, incoming: int, layer: Convolution, input_scale: InputScale) -> None:
        super().__init__()
        shape = layer.weight_shape(incoming)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(layer.filters))
        self.register_buffer("bias", torch.zeros(layer.filters))
        self.layer = layer
        self.input_scale = input_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_scale.rounded(x)  # first: registers the operators
        zeros = torch.zeros_like(self.weight_scale, dtype=torch.int64)
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.weight, self.weight_scale, zeros, 0, -128, 127, torch.int8
        )
        layer = self.layer
        return layer.convolve(x, weight, self.bias)


def folded_layers(
    architecture: Architecture,
    chosen: Set[int],
    done: str,
    convolution: Callable[[int, int, Convolution], nn.Module],
) -> nn.ModuleList:
    """The modules of a network with BatchNorm folded in.

    chosen: layer numbers of the convolutions that `convolution(number, incoming channels, layer)` makes; the others are
    in float.
    Raises InputError where one of them is no convolution; `done` says what was to be done with it.
    """
    convolutions = {i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
    if others := sorted(chosen - convolutions):
        raise InputError(f"layers.{others[0]}: {done}, but not a convolution of the network")
    return nn.ModuleList(
        folded_block(taken[0].channels, layer, convolution(i, taken[0].channels, layer) if i in chosen else None)
        if isinstance(layer, Convolution)
        else layer.module(taken)
        for i, (layer, taken) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True))
    )


def folded_block(incoming: int, layer: Convolution, convolution: nn.Module | None) -> nn.Sequential:
    """BatchNorm is folded into weight and bias, so there is no `norm`. convolution: one in float by default."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["convolution"] = convolution or layer.float_convolution(incoming, bias=True)
    add_activation(parts, layer)
    return nn.Sequential(parts)
