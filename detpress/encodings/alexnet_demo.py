"""The file of Deep Compression's authors: AlexNet in 8.9 MB (github.com/songhan/Deep-Compression-AlexNet).

    u32 kept weights, by layer
    a layer:  f32 codebook (2**bits), f32 bias (outputs), codes, gaps

Codes of 8 bits are bytes, those of 4 bits and the gaps, which have 4, are two a byte, the first in the lower half. A
gap is stored less 1, counted from one entry to the next in the order of memory; a gap too long has entries of code 0,
and code 0 is what all other weights have. There is no Huffman code in it. So its `decode.py` reads it; the file itself
was not at hand where this was written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detpress.encodings.gaps import without_gaps
from detpress.errors import InputError
from detpress.files.plain import plain


@dataclass(frozen=True)
class DemoLayer:
    """shape: of the weight, its outputs first. bits: of a code."""

    shape: tuple[int, ...]
    bits: Literal[4, 8]

    @property
    def weights(self) -> int:
        return int(np.prod(self.shape))

    def sizes(self, kept: int) -> list[int]:
        """Bytes of codebook, bias, codes and gaps."""
        return [4 << self.bits, 4 * self.shape[0], -(-kept * self.bits // 8), -(-kept // 2)]


ALEXNET = (
    DemoLayer((96, 3, 11, 11), 8),
    DemoLayer((256, 48, 5, 5), 8),
    DemoLayer((384, 256, 3, 3), 8),
    DemoLayer((384, 192, 3, 3), 8),
    DemoLayer((256, 192, 3, 3), 8),
    DemoLayer((4096, 9216), 4),
    DemoLayer((4096, 4096), 4),
    DemoLayer((1000, 4096), 4),
)


def read_demo(path: Path, layers: Sequence[DemoLayer] = ALEXNET) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias, float32, of each layer.

    Raises InputError for a file that is none of these layers, before more of it is read than there is.
    """
    try:
        stored = plain(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(stored) < 4 * len(layers):
        raise InputError(f"{path}: {len(stored)} bytes; expected the counts of {len(layers)} layers")
    counts = np.frombuffer(stored, "<u4", len(layers)).tolist()
    sizes = [size for layer, kept in zip(layers, counts, strict=True) for size in layer.sizes(kept)]
    if 4 * len(layers) + sum(sizes) != len(stored):
        raise InputError(f"{path}: {len(stored)} bytes; its counts say {4 * len(layers) + sum(sizes)}")
    ends = (4 * len(layers) + np.cumsum([0, *sizes])).tolist()
    parts = iter([stored[start:end] for start, end in pairwise(ends)])
    found = []
    for number, (layer, kept) in enumerate(zip(layers, counts, strict=True), start=1):
        codebook, bias = (torch.from_numpy(np.frombuffer(next(parts), "<f4").astype(np.float32)) for _ in range(2))
        codes, gaps = next(parts), next(parts)
        entries = _nibbles(codes)[:kept] if layer.bits == 4 else np.frombuffer(codes, np.uint8).astype(np.int64)
        try:
            places = without_gaps(entries, _nibbles(gaps)[:kept], layer.weights)
        except InputError as error:
            raise InputError(f"{path}: layer {number}: {error}") from error
        found.append((codebook[torch.from_numpy(places)].reshape(layer.shape), bias))
    return found


def _nibbles(stored: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    both = np.frombuffer(stored, np.uint8).astype(np.int64)
    return np.stack([both & 15, both >> 4], axis=1).ravel()
