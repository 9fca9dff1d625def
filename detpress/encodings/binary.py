"""Weights of one bit: -1 or 1, times a number a filter.

    weight = (bit ? 1 : -1) * scale         BatchNorm folded into scale and bias

The bits of a layer lie one after the other, without gaps: a 32nd of the float weights. They are decoded once, when the
network is loaded, and computed with in float. Where inputs are signs, too, sums of products are counts of equal bits
for a machine that has such instructions; here they are computed in float, which is why that form is `simulated`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.encoding import Encoding, UnpackedConvolution
from detpress.detector.geometry import Geometry


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
    """A bit a weight, and a bit a number of the input, computed in float.

    input_scale: whether what the signs give is multiplied by how large the input is there (see `input_scales`).
    """

    input_scale: bool
    simulated = True

    @property
    def rounds_input(self) -> bool:
        return True

    def rounded(self, x: Tensor) -> Tensor:
        return input_signs(x)

    def module(self, like: nn.Conv2d) -> UnpackedConvolution:
        kind = ScaledConvolution if self.input_scale else UnpackedConvolution
        return kind(self, like, binary_tensors(like))


class ScaledConvolution(UnpackedConvolution):
    """What the signs of the input give, times how large the input is there."""

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_buffer("bias")[:, None, None]
        return (super().forward(x) - bias) * input_scales(x, self.geometry) + bias


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
    height, width = how.kernel_size
    box = x.new_full((1, 1, height, width), 1 / (height * width))
    return functional.conv2d(x.abs().mean(1, keepdim=True), box, None, how.stride, how.padding, how.dilation)
