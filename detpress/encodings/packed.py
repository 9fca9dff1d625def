"""Weights stored in 4 or 8 bits and computed with in float32.

A convolution's weights are a matrix: a row for each filter, its I * k * k weights in the order of memory. A row is cut
into groups of weights that lie side by side (the last may be shorter), which share a scale and a zero:

    weight = (code - zero) * scale * gain          code: 0 .. 2**bits - 1; gain: of the filter, BatchNorm's

With 4 bits, two codes share a byte, the first in its lower half. Storage is all that this makes smaller: the weights
are unpacked once, when the network is loaded, and the arithmetic is that of the float network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.encoding import Encoding, UnpackedConvolution
from detpress.errors import InputError

Bits = Literal[4, 8]


@dataclass(frozen=True)
class Packed(Encoding):
    """4 or 8 bits a weight and a scale for groups of them, unpacked and computed in float.

    codes: uint8 (F, bytes of a row); scale: float16 (F, groups); zero: float16 (F, groups), where not symmetric.

    gain, bias: float32 (F,).
    group_size: weights of a row that share a scale; -1 for all of a row.
    symmetric: zero is the middle code, 2**(bits - 1), and not stored.
    """

    bits: Bits
    group_size: int
    symmetric: bool

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or not (self.group_size == -1 or self.group_size > 0):
            raise InputError(f"no packing: {self.bits} bits, groups of {self.group_size}; expected 4 or 8 bits")

    @property
    def stored_bits(self) -> int:
        return self.bits

    def groups(self, columns: int) -> int:
        """Groups of a row of so many weights."""
        return 1 if self.group_size == -1 else -(-columns // self.group_size)

    def module(self, like: nn.Conv2d) -> UnpackedConvolution:
        """Codes and scales are 1: a plan counts none of them as zero."""
        filters, columns = like.weight.flatten(1).shape
        groups = torch.ones(filters, self.groups(columns), dtype=torch.float16)
        codes = pack(torch.ones(filters, columns, dtype=torch.uint8), self.bits)
        zero = {} if self.symmetric else {"zero": torch.zeros_like(groups)}
        tensors = {"codes": codes, "scale": groups, "gain": torch.ones(filters), "bias": torch.zeros(filters), **zero}
        return UnpackedConvolution(self, like, tensors)

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        codes = unpack(tensors["codes"], self.bits, shape[1:].numel())
        matrix = decode(codes, tensors["scale"], tensors.get("zero"), self)
        return (matrix * tensors["gain"][:, None]).reshape(shape)


def decode(codes: Tensor, scale: Tensor, zero: Tensor | None, packing: Packed) -> Tensor:
    """The matrix that codes stand for, before the gain: uint8 (F, K), (F, groups), (F, groups) -> float32 (F, K)."""
    columns = codes.shape[1]
    group = torch.arange(columns) // (columns if packing.group_size == -1 else packing.group_size)
    middle = torch.tensor(2.0 ** (packing.bits - 1)) if zero is None else zero.float()[:, group]
    return (codes.float() - middle) * scale.float()[:, group]


def pack(codes: Tensor, bits: Bits) -> Tensor:
    """uint8 (F, K), each below 2**bits, -> uint8 (F, bytes of a row); an odd row of 4-bit codes ends with a zero."""
    if bits == 8:
        return codes
    even = functional.pad(codes, (0, codes.shape[1] % 2))
    return even[:, 0::2] | even[:, 1::2] << 4


def unpack(stored: Tensor, bits: Bits, columns: int) -> Tensor:
    """The inverse of `pack`, for rows of `columns` codes."""
    if bits == 8:
        return stored
    return torch.stack([stored & 15, stored >> 4], dim=2).flatten(1)[:, :columns]
