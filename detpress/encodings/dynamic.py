"""A network that rounds to 8 bits with scales taken from the numbers at hand, instead of from calibration images.

Every convolution's weights are int8, as in `QuantizedNetwork`. Its input is rounded by the smallest and the largest
value that it holds in this run:

    scale = (max - min) / 255, zero = round(-min / scale)        min at most 0, max at least 0

so a raw map depends, by its rounding, on what else is in the batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.network import run_layers
from detpress.encodings.quantized import folded_layers
from detpress.errors import InputError
from detpress.files.plain_json import check_keys


@dataclass(frozen=True)
class DynamicQuantization:
    """Which convolutions are quantized, by layer number; the others are in float."""

    layers: frozenset[int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        return {"layers": sorted(self.layers)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "DynamicQuantization":
        """Raises InputError where `data` does not describe a quantization."""
        check_keys("dynamic", data, ("layers",))
        try:
            return cls(frozenset(int(i) for i in data["layers"]))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError("not the description of a dynamic quantization") from error


class DynamicNetwork(nn.Module):
    """Gives raw maps like `Network`. Its weights are int8 buffers, to be filled by `load_state_dict`.

    Raises InputError where a layer to be quantized is no convolution.
    """

    def __init__(self, architecture: Architecture, dynamic: DynamicQuantization) -> None:
        super().__init__()
        self.architecture = architecture
        self.dynamic = dynamic
        self.layers = folded_layers(
            architecture,
            dynamic.layers,
            "quantized",
            lambda i, incoming, layer: DynamicConvolution(incoming, layer),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1]. Returns the raw maps, float32, as `Network.forward` does."""
        return run_layers(self.architecture, self.layers, images)


class DynamicConvolution(nn.Module):
    """weight: int8 (F, I, k, k); weight_scale: float32 (F,); bias: float32 (F,)."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, incoming: int, layer: Convolution) -> None:
        super().__init__()
        shape = layer.weight_shape(incoming)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(layer.filters))
        self.register_buffer("bias", torch.zeros(layer.filters))
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, weight = self.layer, self.weight.float() * self.weight_scale[:, None, None, None]
        return layer.convolve(rounded(x), weight, self.bias)


def rounded(x: Tensor) -> Tensor:
    """float32 of any shape -> the nearest of 256 values that lie evenly over its range, zero among them."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = torch.round(-low / scale).clamp(0, 255)
    return ((torch.round(x * (1 / scale)) + zero).clamp(0, 255) - zero) * scale
