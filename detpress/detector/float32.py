"""Weights in float32: as they are trained, and with BatchNorm folded into them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detpress.detector.encoding import Encoding
from detpress.detector.geometry import Geometry


@dataclass(frozen=True)
class Float32(Encoding):
    """As it is trained, BatchNorm behind it.

    weight: float32 (F, I, k, k); bias: float32 (F,), where no BatchNorm follows. Both can be trained.
    """

    keeps_norm: ClassVar[bool] = True
    stored_bits = 32

    def module(self, like: nn.Conv2d) -> nn.Conv2d:
        return _convolution(like, like.bias is not None)

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return tensors["weight"]


@dataclass(frozen=True)
class FoldedFloat32(Float32):
    """What a convolution is beside encoded ones: BatchNorm's factor is in the weight, and its addend is the bias."""

    keeps_norm: ClassVar[bool] = False

    def module(self, like: nn.Conv2d) -> nn.Conv2d:
        return _convolution(like, bias=True)


def _convolution(like: nn.Conv2d, bias: bool) -> nn.Conv2d:
    how = Geometry.of(like)
    return nn.Conv2d(
        like.in_channels, like.out_channels, how.kernel_size, how.stride, how.padding, how.dilation, how.groups, bias
    )
