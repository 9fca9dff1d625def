"""Which words stand for the sub-vectors of a network's convolutions."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from detpress.detector.encoding import Encoding
from detpress.detector.folding import batch_norm_of
from detpress.detector.geometry import Geometry
from detpress.detector.network import Network, convolution_of, with_encoded
from detpress.encodings.vector_clustering import moments_of, pieces_of, words_in_stages
from detpress.encodings.vectors import Number, Vectors, Words


@dataclass(frozen=True)
class Cut:
    """Of one convolution: weights of a sub-vector, words of a stage, stages."""

    size: int
    words: int
    stages: int

    def planned(self, shape: torch.Size) -> Words:
        """As many words as there may be, of ones: for plans, where k-means has found none yet."""
        codes = Vectors(self.size, self.words, self.stages, "float32").codes_of(shape)
        book = torch.ones(self.stages, self.words, self.size)
        return Words(book, torch.zeros(codes, dtype=torch.int64), shape)


def words_of_weight(weight: Tensor, cut: Cut, moments: np.ndarray | None, seed: int) -> Words:
    """k-means of the sub-vectors of a weight (F, I, k, k); moments: see `words_of`."""
    pieces = pieces_of(weight, cut.size)
    words, codes = words_in_stages(pieces.flatten(0, 1).double().numpy(), cut.words, cut.stages, moments, seed)
    shape = cut.stages, *pieces.shape[:2]
    return Words(torch.from_numpy(words.astype(np.float32)), torch.from_numpy(codes).reshape(shape), weight.shape)


@torch.no_grad()
def words_of_network(
    network: Network, cuts: Mapping[int, Cut], images: Tensor | None, seed: int, found: Callable[[int], None]
) -> dict[int, Words]:
    """Of the convolutions with these layer numbers, one after the other.

    images: float32 (N, 3, H, W) in [0, 1], all in memory at once: the words of a convolution fit what it takes of
        them, and those before it have words already. None: all that it takes is of the same size.
    found: is told how many layers are done.
    """
    words: dict[int, Words] = {}

    def fit(i: int, convolution: nn.Conv2d, inputs: Tensor | None) -> None:
        weight = convolution.weight.detach()
        moments = None if inputs is None else moments_of(inputs, Geometry.of(convolution), cuts[i].size)
        words[i] = words_of_weight(weight, cuts[i], moments, seed)
        weight.copy_(words[i].weight(words[i].codebook, words[i].codes))
        found(len(words))

    changing = copy.deepcopy(network).eval()
    convolutions = {i: convolution_of(changing, i) for i in cuts}
    for i, convolution in convolutions.items():
        assert isinstance(convolution, nn.Conv2d)
        if images is None:
            fit(i, convolution, None)
        else:
            convolution.register_forward_pre_hook(lambda of, taken, i=i: fit(i, of, taken[0]))
    if images is not None:
        changing(images)
    return {i: words[i] for i in cuts}


def vector_network(network: Network, layers: Mapping[int, Words], number: Number) -> Network:
    """`network` whose convolutions keep words in the place of their weights, BatchNorm as gain and bias."""
    encoded: dict[int, tuple[Encoding, dict[str, Tensor]]] = {}
    for i, words in layers.items():
        gain, bias = batch_norm_of(network, i)
        encoding, tensors = words.encoded(number)
        encoded[i] = encoding, tensors | {"gain": gain, "bias": bias}
    return with_encoded(network, encoded)
