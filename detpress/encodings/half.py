"""Convolutions that compute in 16 bits; everything between them stays in float32.

    x  ->  rounded to bf16 or fp16  ->  convolution of 16-bit weights  ->  float32  ->  BatchNorm  ->  activation

bf16 has float32's range and 8 bits of precision, fp16 has 11 bits of precision and overflows above 65504. The weights
are stored in 16 bits, too: rounding them when they are saved or every time they are used gives the same numbers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from detpress.detector.encoding import Encoding, Precision
from detpress.detector.geometry import Geometry
from detpress.detector.network import Network
from detpress.errors import InputError

HalfType = Literal["bf16", "fp16"]
DTYPES: dict[HalfType, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Half(Encoding):
    """Kept and computed in 16 bits.

    weight: 16 bits (F, I, k, k); bias: 16 bits (F,), where no BatchNorm follows.
    """

    dtype: HalfType
    keeps_norm: ClassVar[bool] = True
    stored_bits = 16

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"no 16-bit type '{self.dtype}'; expected one of: {', '.join(get_args(HalfType))}")

    @property
    def precision(self) -> Precision:
        return self.dtype

    def module(self, like: nn.Conv2d) -> nn.Conv2d:
        how = Geometry.of(like)
        return HalfConvolution(
            like.in_channels,
            like.out_channels,
            how.kernel_size,
            how.stride,
            how.padding,
            how.dilation,
            how.groups,
            bias=like.bias is not None,
            dtype=DTYPES[self.dtype],
        ).requires_grad_(False)

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return tensors["weight"].float()


class HalfConvolution(nn.Conv2d):
    """Takes and gives float32; computes in the type of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).float()


def half_network(network: Network, dtype: HalfType, layers: Collection[int]) -> Network:
    """`network`, the weights of these convolutions rounded to 16 bits."""
    rounded = Network(network.architecture, {i: Half(dtype) for i in sorted(layers)})
    rounded.load_state_dict(network.state_dict())
    return rounded.eval().requires_grad_(False)
