"""A network whose weights are stored in 4 or 8 bits and computed with in float32.

A convolution's weights are a matrix: a row for each filter, its I * k * k weights in the order of memory. A row is cut
into groups of weights that lie side by side (the last may be shorter), which share a scale and a zero:

    weight = (code - zero) * scale * gain          code: 0 .. 2**bits - 1; gain: of the filter, BatchNorm's

With 4 bits, two codes share a byte, the first in its lower half. Storage is all that this makes smaller: the weights
are unpacked once, when the network is loaded, and the arithmetic is that of the float network.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.network import run_layers
from detpress.encodings.quantized import folded_layers
from detpress.errors import InputError
from detpress.files.plain_json import check_keys

Bits = Literal[4, 8]


@dataclass(frozen=True)
class Packing:
    """Which convolutions are packed, by layer number, and how; the others' weights are float32.

    group_size: weights of a row that share a scale; -1 for all of a row.
    symmetric: zero is the middle code, 2**(bits - 1), and not stored.
    """

    bits: Bits
    group_size: int
    symmetric: bool
    layers: frozenset[int]

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or not (self.group_size == -1 or self.group_size > 0):
            raise InputError(f"no packing: {self.bits} bits, groups of {self.group_size}; expected 4 or 8 bits")

    def groups(self, columns: int) -> int:
        """Groups of a row of so many weights."""
        return 1 if self.group_size == -1 else -(-columns // self.group_size)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        return {
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
            "layers": sorted(self.layers),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Packing":
        """Raises InputError where `data` does not describe a packing."""
        check_keys("packing", data, ("bits", "group_size", "symmetric", "layers"))
        try:
            layers = frozenset(int(i) for i in data["layers"])
            return cls(data["bits"], int(data["group_size"]), bool(data["symmetric"]), layers)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError("not the description of packed weights") from error


class PackedNetwork(nn.Module):
    """Gives raw maps like `Network`. Its tensors are buffers and parameters to be filled by `load_state_dict`.

    Raises InputError where a layer to be packed is no convolution.
    """

    def __init__(self, architecture: Architecture, packing: Packing) -> None:
        super().__init__()
        self.architecture = architecture
        self.packing = packing
        self.layers = folded_layers(
            architecture,
            packing.layers,
            "packed",
            lambda i, incoming, layer: PackedConvolution(incoming, layer, packing),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1]. Returns the raw maps, float32, as `Network.forward` does."""
        return run_layers(self.architecture, self.layers, images)


class PackedConvolution(nn.Module):
    """codes: uint8 (F, bytes of a row); scale: float16 (F, groups); zero: float16 (F, groups), where not symmetric.

    gain, bias: float32 (F,). `weight`, float32 (F, I, k, k), follows from them and is not stored.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    gain: Tensor
    bias: Tensor
    weight: Tensor

    def __init__(self, incoming: int, layer: Convolution, packing: Packing) -> None:
        super().__init__()
        self.layer = layer
        self.packing = packing
        self.shape = layer.weight_shape(incoming)
        columns = math.prod(self.shape[1:])
        groups = packing.groups(columns)
        self.register_buffer("codes", torch.zeros(layer.filters, -(-columns * packing.bits // 8), dtype=torch.uint8))
        self.register_buffer("scale", torch.zeros(layer.filters, groups, dtype=torch.float16))
        self.register_buffer(
            "zero", None if packing.symmetric else torch.zeros(layer.filters, groups, dtype=torch.float16)
        )
        self.register_buffer("gain", torch.ones(layer.filters))
        self.register_buffer("bias", torch.zeros(layer.filters))
        self.register_buffer("weight", torch.zeros(self.shape), persistent=False)
        self.register_load_state_dict_post_hook(_decode)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        return layer.convolve(x, self.weight, self.bias)


def _decode(convolution: PackedConvolution, keys: object) -> None:
    packing = convolution.packing
    columns = math.prod(convolution.shape[1:])
    matrix = decode(unpack(convolution.codes, packing.bits, columns), convolution.scale, convolution.zero, packing)
    convolution.weight = (matrix * convolution.gain[:, None]).reshape(convolution.shape)


def decode(codes: Tensor, scale: Tensor, zero: Tensor | None, packing: Packing) -> Tensor:
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
