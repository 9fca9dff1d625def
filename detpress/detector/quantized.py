"""An int8 network that needs no engine: the layer list, int8 weights, and the scale of every convolution's input.

Each convolution takes its input rounded to 8 bits (unsigned, one scale and zero point a tensor), its weights in 8
bits (signed, one scale a filter), BatchNorm folded in, and a float bias:

    x  ->  quantize(scale, zero point)  ->  dequantize  ->  convolution(dequantize(int8 weight)) + bias  ->  activation

as in Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
arXiv:1712.05877, 2018. Eager PyTorch computes this in float, with the values that integers would give; compilers
(OpenVINO, ONNX Runtime, torch.compile) recognise the pattern and execute it in integers.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
from torch.nn import functional

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.network import plain_layer, run_layers
from detpress.errors import InputError


@dataclass(frozen=True)
class InputScale:
    """How a convolution's input is rounded: uint8 q stands for (q - zero_point) * scale."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.zero_point <= 255):
            raise InputError(f"no scale of 8-bit numbers: {self}")


@dataclass(frozen=True)
class Quantization:
    """Which convolutions are in int8, by layer number; the others are in float."""

    inputs: Mapping[int, InputScale]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        return {"inputs": {str(i): [scale.scale, scale.zero_point] for i, scale in self.inputs.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Quantization":
        """Raises InputError where `data` does not describe a quantization."""
        try:
            return cls({int(i): InputScale(float(scale), int(zero)) for i, (scale, zero) in data["inputs"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not the description of a quantization: {error!r}") from error


class QuantizedNetwork(nn.Module):
    """Gives raw maps like `Network`. Its weights are int8 buffers, to be filled by `load_state_dict`.

    Raises InputError where a layer to be quantized is no convolution.
    """

    def __init__(self, architecture: Architecture, quantization: Quantization) -> None:
        super().__init__()
        convolutions = {i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
        if others := sorted(quantization.inputs.keys() - convolutions):
            raise InputError(f"layers.{others[0]}: quantized, but not a convolution of the network")
        self.architecture = architecture
        self.quantization = quantization
        channels = (3, *architecture.output_channels)
        self.layers = nn.ModuleList(
            folded_block(
                channels[i],
                layer,
                QuantizedConvolution(channels[i], layer, quantization.inputs[i]) if i in quantization.inputs else None,
            )
            if isinstance(layer, Convolution)
            else plain_layer(layer)
            for i, layer in enumerate(architecture.layers)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1]. Returns the raw maps, float32, as `Network.forward` does."""
        return run_layers(self.architecture, self.layers, images)


class QuantizedConvolution(nn.Module):
    """weight: int8 (F, I, k, k); weight_scale: float32 (F,); bias: float32 (F,)."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, incoming: int, layer: Convolution, input_scale: InputScale) -> None:
        super().__init__()
        shape = (layer.filters, incoming // layer.groups, layer.size, layer.size)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(layer.filters))
        self.register_buffer("bias", torch.zeros(layer.filters))
        self.layer = layer
        self.input_scale = input_scale

    def forward(self, x: Tensor) -> Tensor:
        scale, zero = self.input_scale.scale, self.input_scale.zero_point
        q = torch.ops.quantized_decomposed
        x = q.quantize_per_tensor(x, scale, zero, 0, 255, torch.uint8)
        x = q.dequantize_per_tensor(x, scale, zero, 0, 255, torch.uint8)
        zeros = torch.zeros_like(self.weight_scale, dtype=torch.int64)
        weight = q.dequantize_per_channel(self.weight, self.weight_scale, zeros, 0, -128, 127, torch.int8)
        layer = self.layer
        return functional.conv2d(x, weight, self.bias, layer.stride, layer.size // 2, 1, layer.groups)


def folded_block(incoming: int, layer: Convolution, convolution: nn.Module | None) -> nn.Sequential:
    """BatchNorm is folded into weight and bias, so there is no `norm`. convolution: one in float by default."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["convolution"] = convolution or nn.Conv2d(
        incoming, layer.filters, layer.size, layer.stride, layer.size // 2, groups=layer.groups
    )
    if layer.activation == "leaky":
        parts["activation"] = nn.LeakyReLU(0.1)
    return nn.Sequential(parts)
