"""Weights whose sub-vectors are words of a codebook (vector quantization).

    sub-vector = codebook[0][code of stage 0] + codebook[1][code of stage 1] + ...
    weight = sub-vectors of a filter, side by side, * gain

One stage is product quantization, more are residual quantization. A layer of n sub-vectors of d weights and a codebook
of k words takes 32 k d + n log2 k bits a stage. The words are those before BatchNorm, which is kept as gain and bias.
Storage is all that this makes smaller: weights are decoded once, when the network is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from detpress.detector.encoding import Encoding, UnpackedConvolution
from detpress.encodings.bits import packed, unpacked
from detpress.encodings.vector_clustering import from_pieces
from detpress.errors import InputError

Number = Literal["float32", "float16", "int8"]
MOST_WORDS, MOST_STAGES = 2**16, 8


@dataclass(frozen=True)
class Vectors(Encoding):
    """Sums of words of few codebooks in the place of sub-vectors, decoded and computed in float.

    codebook: float32, float16 or int8 (stages, words, size); step: float32 (stages,), what a number of an int8 codebook
    is multiplied by, where it is one; codes: uint8 (bytes,), those of stage 0 first, each of the bits that tell `words`
    apart, the highest first; gain, bias: float32 (F,).

    size: weights of a sub-vector. words: of a stage. number: in what the codebook is kept.
    """

    size: int
    words: int
    stages: int
    number: Number

    def __post_init__(self) -> None:
        fits = 1 <= self.size <= 2**16 and 1 <= self.words <= MOST_WORDS and 1 <= self.stages <= MOST_STAGES
        if not fits or self.number not in ("float32", "float16", "int8"):
            raise InputError(
                f"no codebooks: {self.stages} stages of {self.words} words of {self.size} weights in {self.number}; "
                f"expected at most {MOST_STAGES} and {MOST_WORDS}"
            )

    @property
    def code_bits(self) -> int:
        return (self.words - 1).bit_length()

    @property
    def stored_bits(self) -> int:
        """Rounded up: of a sub-vector of 9 weights and 8 bits, 1."""
        return max(1, -(-self.stages * self.code_bits // self.size))

    def codes_of(self, shape: torch.Size) -> tuple[int, int, int]:
        """Stages, filters, and sub-vectors of a filter, of weights of `shape`."""
        return self.stages, shape[0], -(-shape[1:].numel() // self.size)

    def module(self, like: nn.Conv2d) -> UnpackedConvolution:
        codes = int(np.prod(self.codes_of(like.weight.shape)))
        tensors = {
            "codebook": torch.zeros(self.stages, self.words, self.size, dtype=getattr(torch, self.number)),
            "codes": torch.zeros(-(-codes * self.code_bits // 8), dtype=torch.uint8),
            "gain": torch.ones(like.out_channels),
            "bias": torch.zeros(like.out_channels),
        }
        if self.number == "int8":
            tensors["step"] = torch.ones(self.stages)
        return UnpackedConvolution(self, like, tensors)

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        codebook = tensors["codebook"].float()
        if "step" in tensors:
            codebook = codebook * tensors["step"][:, None, None]
        found = looked_up(codebook, self.unpacked(tensors["codes"], shape), shape)
        return found * tensors["gain"][:, None, None, None]

    def unpacked(self, stored: Tensor, shape: torch.Size) -> Tensor:
        """The codes as int64 (stages, F, sub-vectors of a filter). Raises InputError for one that is no word's."""
        how_many = self.codes_of(shape)
        codes = unpacked(stored.numpy().tobytes(), self.code_bits, int(np.prod(how_many)))
        if codes.max() >= self.words:
            raise InputError(f"code {codes.max()} of a codebook of {self.words} words")
        return torch.from_numpy(codes).reshape(how_many)


def looked_up(codebook: Tensor, codes: Tensor, shape: torch.Size) -> Tensor:
    """The weights that codes stand for: float32 (stages, words, size), int64 (stages, F, P) -> float32 of `shape`.

    The gradient of a word is the sum over the sub-vectors that share it.
    """
    words = [of.index_select(0, which.flatten()) for of, which in zip(codebook, codes, strict=True)]
    pieces = torch.stack(words).sum(0) if len(words) > 1 else words[0]
    return from_pieces(pieces.reshape(*codes.shape[1:], -1), shape)


@dataclass(frozen=True)
class Words:
    """One convolution's weights by words. codebook: float32 (stages, words, size); codes: int64 (stages, F, P)."""

    codebook: Tensor
    codes: Tensor
    shape: torch.Size

    def weight(self, codebook: Tensor, codes: Tensor) -> Tensor:
        return looked_up(codebook, codes, self.shape)

    def encoded(self, number: Number) -> tuple[Vectors, dict[str, Tensor]]:
        """The encoding with its codebook and codes; gain and bias are left to be added."""
        stages, words, size = self.codebook.shape
        encoding = Vectors(size, words, stages, number)
        codes = packed(self.codes.flatten().numpy(), encoding.code_bits)
        tensors = {"codes": torch.from_numpy(np.frombuffer(codes, np.uint8).copy())}
        if number != "int8":
            return encoding, tensors | {"codebook": self.codebook.to(getattr(torch, number))}
        largest = self.codebook.abs().amax((1, 2))
        step = torch.where(largest > 0, largest / 127, 1.0)
        rounded = (self.codebook / step[:, None, None]).round().to(torch.int8)
        return encoding, tensors | {"codebook": rounded, "step": step}
