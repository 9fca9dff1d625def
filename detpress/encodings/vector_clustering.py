"""k-means of sub-vectors: which few vectors stand for the pieces that a layer's weights are cut into.

    a filter's weights    w w w w w w w w w w | of 4: (w w w w) (w w w w) (w w 0 0)

A filter's weights, in the order of memory, are cut into pieces of d weights that lie side by side; the last is filled
up with zeros, which are dropped again. A piece of 9 is what a 3 x 3 filter has for one channel, a piece of 4 in a
convolution of 1 x 1 what it has for four.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from detpress.detector.geometry import Geometry

Vectors = NDArray[np.float64]
Codes = NDArray[np.int64]
ROUNDS = 100  # of k-means, at most
RIDGE = 1e-6  # of the inputs' mean square, added to each one's: what inputs do not tell apart, weights do


def pieces_of(weight: Tensor, size: int) -> Tensor:
    """Sub-vectors of `size` weights: (F, I, k, k) -> (F, pieces of a filter, size)."""
    rows = weight.flatten(1)
    return functional.pad(rows, (0, -rows.shape[1] % size)).reshape(len(rows), -1, size)


def from_pieces(pieces: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pieces_of`; shape: (F, I, k, k)."""
    return pieces.flatten(1)[:, : shape[1:].numel()].reshape(shape)


def words_of(vectors: Vectors, count: int, moments: Vectors | None, seed: int) -> tuple[Vectors, Codes]:
    """k-means: at most `count` words (k, d), each the mean of its own vectors, and which is each vector's (n,).

    Without `moments`, a word is as far from a vector as the square of their difference says. With the second moments
    (d, d) of what is multiplied with the vectors, as far as the square of the difference of the products says, in the
    mean: (v - w) M (v - w). Stock, Joulin, Gribonval, Graham, Jegou, "And the Bit Goes Down", arXiv:1907.05686, 2019,
    sections 3.2 and 3.3, whose best word is the mean of its vectors, too, where M has full rank.

    vectors: (n, d). Where they are no more than `count` different ones, these are the words. The same arguments give
    the same bits, by any number of threads.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    different, own = np.unique(vectors, axis=0, return_inverse=True)
    if len(different) <= count:
        return different, own.ravel()
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of vectors that no input tells apart
        seen = vectors if moments is None else vectors @ _root(moments)
        labels = KMeans(count, n_init=1, max_iter=ROUNDS, random_state=seed).fit(seen).labels_
    _, own, members = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(own, column) for column in vectors.T], axis=1)
    return sums / members[:, None], own


def _root(moments: Vectors) -> Vectors:
    """A matrix R with |v R|^2 = v M v."""
    values, directions = np.linalg.eigh(moments + RIDGE * np.trace(moments) / len(moments) * np.eye(len(moments)))
    return np.asarray(directions * np.sqrt(values.clip(min=0)))


def words_in_stages(
    vectors: Vectors, count: int, stages: int, moments: Vectors | None, seed: int
) -> tuple[Vectors, Codes]:
    """Words (stages, k, d) and codes (stages, n): a vector is the sum of its words, one of each stage.

    The words of a stage are those of what the stages before it leave: residual quantization (Chen, Guan, Wang,
    "Approximate Nearest Neighbor Search by Residual Vector Quantization", Sensors 2010). Words that a stage has no
    vector for are zeros.
    """
    words, codes, left = [], [], vectors
    for stage in range(stages):
        found, own = words_of(left, count, moments, seed + stage)
        left = left - found[own]
        words.append(found)
        codes.append(own)
    most = max(map(len, words))
    filled = [np.pad(found, ((0, most - len(found)), (0, 0))) for found in words]
    return np.stack(filled), np.stack(codes)


def moments_of(inputs: Tensor, how: Geometry, size: int) -> Vectors:
    """Second moments (size, size) of what a convolution multiplies its sub-vectors by, all of them taken together.

    inputs: float32 (N, C, H, W), what it takes. how: it moves over them.
    """
    total, count = torch.zeros(size, size, dtype=torch.float64), 0
    for image in inputs:
        columns = functional.unfold(image[None], how.kernel_size, how.dilation, how.padding, how.stride)[0]
        seen = torch.cat([part.T for part in columns.chunk(how.groups)])  # by a filter, at each place
        pieces = functional.pad(seen, (0, -seen.shape[1] % size)).reshape(-1, size).double()
        total += pieces.T @ pieces
        count += len(pieces)
    return np.asarray((total / count).numpy())
