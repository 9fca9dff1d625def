"""Weights of a layer that share a few values.

    weight = (0, *codebook)[code] * gain     where the layer is pruned: code 0 is a weight that is not there
    weight = codebook[code] * gain           where it is not

The values are those before BatchNorm, whose factor would make others of them in every filter: it is kept as the gain,
its addend as the bias. Storage is all that this makes smaller: weights are decoded once, when the network is loaded,
and the arithmetic is that of the float network.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.encoding import Encoding, UnpackedConvolution
from detpress.detector.folding import batch_norm_of
from detpress.detector.network import Network, with_encoded
from detpress.encodings.clustering import Start, clustered, nearest_of, starting_centroids
from detpress.errors import InputError

MOST_BITS = 8


@dataclass(frozen=True)
class Shared(Encoding):
    """Codes of few bits that stand for values of a codebook, unpacked and computed in float.

    codebook: float32 (values,); codes: uint8 (F, I, k, k); gain, bias: float32 (F,).
    sparse: whether code 0 stands for zero, and code c for the value c - 1.
    """

    values: int
    sparse: bool

    def __post_init__(self) -> None:
        if not (self.values >= 0 and 1 <= self.symbols <= 2**MOST_BITS):
            raise InputError(f"no codebook: {self.values} values; expected codes of at most {MOST_BITS} bits")

    @property
    def symbols(self) -> int:
        """How many different codes there may be."""
        return self.values + self.sparse

    @property
    def stored_bits(self) -> int:
        return max(1, (self.symbols - 1).bit_length())

    def module(self, like: nn.Conv2d) -> UnpackedConvolution:
        tensors = {
            "codebook": torch.zeros(self.values),
            "codes": torch.zeros(like.weight.shape, dtype=torch.uint8),
            "gain": torch.ones(like.out_channels),
            "bias": torch.zeros(like.out_channels),
        }
        return UnpackedConvolution(self, like, tensors)

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        codes = tensors["codes"].long()
        if int(codes.max()) >= self.symbols:
            raise InputError(f"code {int(codes.max())} of a codebook of {self.symbols}")
        return looked_up(tensors["codebook"], codes, self.sparse) * tensors["gain"][:, None, None, None]

    def stored_bytes(self, tensors: Mapping[str, Tensor]) -> int:
        """The codes without gaps between their bits."""
        beside = sum(tensor.nbytes for name, tensor in tensors.items() if name != "codes")
        return beside + -(-tensors["codes"].numel() * self.stored_bits // 8)


def looked_up(codebook: Tensor, codes: Tensor, sparse: bool) -> Tensor:
    """What the codes stand for: float32 (values,), int64 of any shape -> float32 of that shape.

    The gradient of a value is the sum over the weights that share it.
    """
    values = functional.pad(codebook, (1, 0)) if sparse else codebook
    return values.index_select(0, codes.flatten()).reshape(codes.shape)


@dataclass(frozen=True)
class Clusters:
    """The weights of one convolution by clusters. codebook: float32 (values,); codes: int64 (F, I, k, k)."""

    codebook: Tensor
    codes: Tensor
    sparse: bool

    @property
    def encoding(self) -> Shared:
        return Shared(len(self.codebook), self.sparse)

    def weight(self, codebook: Tensor, codes: Tensor) -> Tensor:
        return looked_up(codebook, codes, self.sparse)


def clusters_of(weight: Tensor, mask: Tensor | None, bits: int, start: Start, seed: int) -> Clusters:
    """k-means of a layer's weights, so that a code has at most `bits` bits.

    weight: float32 (F, I, k, k). mask: bool of its shape, False where it is held at zero, which no cluster takes part
    in; None where nothing is.
    """
    sparse = mask is not None and not bool(mask.all())
    kept = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
    values = weight[kept].double().numpy()
    codes = torch.zeros(weight.shape, dtype=torch.int64)
    if not len(values):
        return Clusters(torch.zeros(0), codes, sparse)
    centroids = clustered(values, starting_centroids(values, 2**bits - sparse, start, seed))
    codes[kept] = torch.from_numpy(nearest_of(values, centroids)) + int(sparse)
    return Clusters(torch.from_numpy(centroids.astype(np.float32)), codes, sparse)


def planned_clusters(weight: Tensor, mask: Tensor | None, bits: int) -> Clusters:
    """As many values as there may be, each 1: for plans, where k-means has found none yet."""
    sparse = mask is not None and not bool(mask.all())
    codes = torch.zeros_like(weight, dtype=torch.int64) if mask is None or not sparse else mask.long()
    return Clusters(torch.ones(2**bits - sparse), codes, sparse)


def shared_network(network: Network, layers: Mapping[int, Clusters]) -> Network:
    """`network` whose convolutions keep clusters in the place of their weights, BatchNorm as gain and bias."""
    encoded: dict[int, tuple[Encoding, dict[str, Tensor]]] = {}
    for i, clusters in layers.items():
        gain, bias = batch_norm_of(network, i)
        codes = clusters.codes.to(torch.uint8)
        tensors = {"codebook": clusters.codebook, "codes": codes, "gain": gain, "bias": bias}
        encoded[i] = clusters.encoding, tensors
    return with_encoded(network, encoded)
