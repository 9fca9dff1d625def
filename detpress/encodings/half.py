"""A network whose convolutions compute in 16 bits; everything between them stays in float32.

    x  ->  rounded to bf16 or fp16  ->  convolution of 16-bit weights  ->  float32  ->  BatchNorm  ->  activation

bf16 has float32's range and 8 bits of precision, fp16 has 11 bits of precision and overflows above 65504. The weights
are stored in 16 bits, too: rounding them when they are saved or every time they are used gives the same numbers.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.network import Network
from detpress.errors import InputError
from detpress.files.plain_json import check_keys

HalfType = Literal["bf16", "fp16"]
DTYPES: dict[HalfType, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class HalfPrecision:
    """Which convolutions compute in 16 bits, by layer number, and in which; the others are in float32."""

    dtype: HalfType
    layers: frozenset[int]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"no 16-bit type '{self.dtype}'; expected one of: {', '.join(get_args(HalfType))}")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        return {"dtype": self.dtype, "layers": sorted(self.layers)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "HalfPrecision":
        """Raises InputError where `data` does not describe a precision."""
        check_keys("half_precision", data, ("dtype", "layers"))
        try:
            return cls(data["dtype"], frozenset(int(i) for i in data["layers"]))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError("not the description of a 16-bit precision") from error


class HalfNetwork(Network):
    """`Network` with the weights of some convolutions in 16 bits. Raises InputError where one is no convolution."""

    def __init__(self, architecture: Architecture, half: HalfPrecision) -> None:
        super().__init__(architecture)
        self.half_precision = half
        channels = (3, *architecture.output_channels)
        for i in sorted(half.layers):
            layer = architecture.layers[i] if i < len(architecture.layers) else None
            if not isinstance(layer, Convolution):
                raise InputError(f"layers.{i}: in 16 bits, but not a convolution of the network")
            convolution = HalfConvolution(
                channels[i],
                layer.filters,
                layer.kernel,
                layer.stride,
                layer.padding,
                groups=layer.groups,
                bias=not layer.batch_normalize,
                dtype=DTYPES[half.dtype],
            )
            self.layers[i].add_module("convolution", convolution)
        self.requires_grad_(False)

    def in_float(self) -> Network:
        """The same weights, rounded as they are, in a network that computes in float32."""
        network = Network(self.architecture)
        network.load_state_dict(self.state_dict())
        return network.eval().requires_grad_(False)


class HalfConvolution(nn.Conv2d):
    """Takes and gives float32; computes in the type of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).float()


def half_network(network: Network, half: HalfPrecision) -> HalfNetwork:
    """`network`, its weights rounded to 16 bits where `half` says so."""
    rounded = HalfNetwork(network.architecture, half)
    rounded.load_state_dict(network.state_dict())
    return rounded.eval()
