"""Shared weights as one stream of bytes a layer: what lies on disk is what is counted.

    u8 version, u8 bits of a gap (0: the layer is not sparse), u16 values, u32 entries, u32 bytes of the codes
    values x f32        the codebook
    filters x f32       the gain
    tables              lengths of the Huffman codes of the codes, and of the gaps
    codes, gaps         Huffman-coded, each up to a whole byte; a layer that is not sparse has a code a weight, no gaps

Numbers are little-endian. Han, Mao, Dally, "Deep Compression", arXiv:1510.00149, 2015, code both streams so; the
paper has no file, and this one is ours.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detpress.detector.encoding import Encoding, UnpackedConvolution
from detpress.encodings.gaps import with_gaps, without_gaps
from detpress.encodings.huffman_code import (
    LENGTH_BITS,
    code_lengths,
    decode,
    encode,
    entropy_bits,
    read_table,
    table_bytes,
)
from detpress.encodings.shared import MOST_BITS, Shared
from detpress.errors import InputError

VERSION = 1
HEAD = struct.Struct("<BBHII")
GAP_BITS = (4, 5, 8)


@dataclass(frozen=True)
class Huffman(Encoding):
    """Shared weights in a stream of Huffman codes, unpacked and computed in float.

    stream: uint8 (bytes,), as `detpress.encodings.huffman` says; bias: float32 (F,).
    bits: of a code before it is Huffman-coded.
    """

    bits: int
    bytes: int

    def __post_init__(self) -> None:
        if not (1 <= self.bits <= MOST_BITS and self.bytes >= HEAD.size):
            raise InputError(f"no stream: {self.bits} bits, {self.bytes} bytes; expected at least {HEAD.size}")

    @property
    def stored_bits(self) -> int:
        return self.bits

    def module(self, like: nn.Conv2d) -> UnpackedConvolution:
        tensors = {
            "stream": torch.zeros(self.bytes, dtype=torch.uint8),
            "bias": torch.zeros(like.out_channels),
        }
        return UnpackedConvolution(self, like, tensors)

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        encoding, shared = shared_of(tensors, shape)
        return encoding.weight(shared, shape)


@dataclass(frozen=True)
class Parts:
    """What a layer's bytes are for: codebook; gain and bias; codes; gaps; tables, and the head.

    fixed: bytes of codes and gaps before Huffman's coding. entropy: of both, in bytes, what no such coder goes below.
    """

    codebook: int
    scale: int
    code: int
    index: int
    table: int
    fixed: float
    entropy: float

    @property
    def total(self) -> int:
        return self.codebook + self.scale + self.code + self.index + self.table


def huffman_of(
    encoding: Shared, tensors: Mapping[str, Tensor], gap_bits: int
) -> tuple[Huffman, dict[str, Tensor], Parts]:
    """A layer of shared weights as a stream. gap_bits: of a gap, where the layer is sparse.

    The same tensors give the same bytes.
    """
    flat = tensors["codes"].flatten().numpy().astype(np.int64)
    codes, gaps = with_gaps(flat, gap_bits) if encoding.sparse else (flat, np.zeros(0, np.int64))
    of_codes = code_lengths(np.bincount(codes, minlength=encoding.symbols))
    of_gaps = code_lengths(np.bincount(gaps, minlength=1 << gap_bits))
    coded, coded_gaps = encode(codes, of_codes), encode(gaps, of_gaps)
    tables = table_bytes(of_codes) + (table_bytes(of_gaps) if encoding.sparse else b"")
    head = HEAD.pack(VERSION, gap_bits if encoding.sparse else 0, encoding.values, len(codes), len(coded))
    codebook, gain = (tensors[name].numpy().astype("<f4").tobytes() for name in ("codebook", "gain"))
    stream = head + codebook + gain + tables + coded + coded_gaps
    parts = Parts(
        len(codebook),
        len(gain) + tensors["bias"].nbytes,
        len(coded),
        len(coded_gaps),
        len(head) + len(tables),
        (len(codes) * encoding.stored_bits + len(gaps) * gap_bits) / 8,
        (entropy_bits(codes) + entropy_bits(gaps)) / 8,
    )
    kept = {"stream": torch.from_numpy(np.frombuffer(stream, np.uint8).copy()), "bias": tensors["bias"]}
    return Huffman(encoding.stored_bits, len(stream)), kept, parts


def smallest_of(encoding: Shared, tensors: Mapping[str, Tensor]) -> tuple[Huffman, dict[str, Tensor], Parts]:
    """The shortest stream, by the bits of a gap."""
    return min((huffman_of(encoding, tensors, bits) for bits in GAP_BITS), key=lambda found: found[2].total)


def shared_of(tensors: Mapping[str, Tensor], shape: torch.Size) -> tuple[Shared, dict[str, Tensor]]:
    """The inverse of `huffman_of`, bit for bit; shape: of the weight, (F, I, k, k).

    Raises InputError for a stream that is none of such a layer, before any memory is taken that it says it needs.
    """
    stream = tensors["stream"].numpy().tobytes()
    filters, weights = shape[0], shape.numel()
    version, gap_bits, values, entries, code_bytes = HEAD.unpack_from(stream)
    if version != VERSION or gap_bits not in (0, *GAP_BITS):
        raise InputError(f"a stream of version {version}, gaps of {gap_bits} bits; this version reads {VERSION}")
    encoding = Shared(values, sparse=gap_bits > 0)
    if entries > weights or (entries < weights and not encoding.sparse):
        raise InputError(f"a stream of {entries} entries for {weights} weights")
    tables = [-(-encoding.symbols * LENGTH_BITS // 8)]
    tables += [-(-(LENGTH_BITS << gap_bits) // 8)] if encoding.sparse else []
    sizes = [HEAD.size, 4 * values, 4 * filters, *tables, code_bytes]
    if sum(sizes) > len(stream):
        raise InputError(f"a stream of {len(stream)} bytes; its head says at least {sum(sizes)}")
    ends = np.cumsum(sizes).tolist()
    parts = [stream[start:end] for start, end in zip(ends, [*ends[1:], len(stream)], strict=True)]
    codebook, gain, of_codes, *of_gaps, coded, coded_gaps = parts
    codes = decode(coded, read_table(of_codes, encoding.symbols), entries)
    if encoding.sparse:
        gaps = decode(coded_gaps, read_table(of_gaps[0], 1 << gap_bits), entries)
        codes = without_gaps(codes, gaps, weights)
    elif coded_gaps:
        raise InputError(f"a stream with {len(coded_gaps)} bytes behind its end")
    shared = {
        "codebook": _floats(codebook),
        "codes": torch.from_numpy(codes.astype(np.uint8)).reshape(shape),
        "gain": _floats(gain),
        "bias": tensors["bias"],
    }
    return encoding, shared


def _floats(stored: bytes) -> Tensor:
    numbers: NDArray[np.float32] = np.frombuffer(stored, "<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InputError("a stream with a number that is not finite")
    return torch.from_numpy(numbers)
