"""k-means of numbers: which few values stand for many.

Numbers on a line need no distances: in order, a cluster is a piece between two places, and a round is a search for
these places and a sum over each piece.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Start = Literal["linear", "random", "density"]
STARTS = get_args(Start)
ROUNDS = 1000  # at most; what moves still, moves by little


def starting_centroids(values: Numbers, count: int, start: Start, seed: int) -> Numbers:
    """Where k-means begins: at most `count` numbers, ascending.

    values: (N,), at least one. Where they are no more than `count` different ones, they are their own centroids.
    linear: evenly from the smallest to the largest. random: values drawn without repetition by `seed`.
    density: the values at even steps of their cumulative distribution.
    """
    different = np.unique(values)
    if len(different) <= count:
        return different
    if start == "linear":
        return np.linspace(different[0], different[-1], count)
    if start == "random":
        return np.sort(np.random.default_rng(seed).choice(different, count, replace=False))
    return np.unique(np.quantile(values, (np.arange(count) + 0.5) / count))


def clustered(values: Numbers, centroids: Numbers) -> Numbers:
    """The centroids, ascending, that Lloyd's rounds end at: each is the mean of the values that are nearest to it.

    values: (N,). centroids: (k,), ascending. One that no value is nearest to is left out.
    """
    ordered = np.sort(values)
    for _ in range(ROUNDS):
        places = np.concatenate([[0], np.searchsorted(ordered, _middles(centroids), side="right"), [len(ordered)]])
        counts = np.diff(places)
        means = np.unique(np.add.reduceat(ordered, places[:-1][counts > 0]) / counts[counts > 0])
        if np.array_equal(means, centroids):
            break
        centroids = means
    return centroids


def nearest_of(values: Numbers, centroids: Numbers) -> NDArray[np.int64]:
    """Of each value, in any shape, which of the ascending centroids is nearest; half-way, the lower."""
    return np.searchsorted(_middles(centroids), values, side="left")


def _middles(centroids: Numbers) -> Numbers:
    return (centroids[1:] + centroids[:-1]) / 2
