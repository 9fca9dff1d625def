"""One convolution as several smaller ones, one after the other.

    a convolution 32 -> 64 of 3 x 3     becomes, of rank r,
    svd        r of 3 x 3,  64 of 1 x 1
    spatial    r of 3 x 1,  64 of 1 x 3
    tucker     r of 1 x 1,  s of 3 x 3,  64 of 1 x 1
    cp         r of 1 x 1,  r of 3 x 1 and r of 1 x 3, each channel by itself,  64 of 1 x 1

The first ones are linear, without bias and BatchNorm; what was behind the convolution is behind the last. At full rank
they compute what it did.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detpress.detector.kinds import Convolution
from detpress.detector.layer import FeatureMap

Ranks = tuple[int, ...]


class Factorization(ABC):
    """How weights (F, I, h, w) become those of several convolutions."""

    def fits(self, layer: Convolution) -> bool:
        """Whether such a layer can have fewer weights so. One with groups never: each part is small already."""
        return layer.groups == 1

    @abstractmethod
    def energies(self, weight: Tensor) -> tuple[Tensor, ...]:
        """For each of the ranks, float64 (its full rank,): what each next one adds to the squares' sum; falling.

        Their sum is that of the weights' squares.
        """

    @abstractmethod
    def layers(self, layer: Convolution, ranks: Ranks) -> tuple[Convolution, ...]:
        """What stands for `layer`."""

    @abstractmethod
    def weights(self, weight: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
        """Those of `layers`, the closest to `weight` that the method finds; the same ones each time."""


class Svd(Factorization):
    """W, a matrix (F, I h w), is U S V': r filters see what the F saw, and each of the F is a mixture of them."""

    def energies(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (squared_singular_values(weight.double().flatten(1)),)

    def layers(self, layer: Convolution, ranks: Ranks) -> tuple[Convolution, ...]:
        [rank] = ranks
        return replace(linear(layer), filters=rank), pointwise(layer)

    def weights(self, weight: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
        [rank] = ranks
        left, right = truncated(weight.double().flatten(1), rank)
        return in_float(right.view(rank, *weight.shape[1:]), left[:, :, None, None])


class Spatial(Factorization):
    """W, a matrix (I h, F w), is U S V': r columns of pixels, and of each of these maps a row for each filter."""

    def fits(self, layer: Convolution) -> bool:
        return super().fits(layer) and min(layer.kernel) > 1

    def energies(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (squared_singular_values(_columns_by_rows(weight)),)

    def layers(self, layer: Convolution, ranks: Ranks) -> tuple[Convolution, ...]:
        [rank] = ranks
        (height, width), (down, across) = layer.kernel, layer.strides
        above, beside = (None, None) if layer.pad is None else ((layer.padding[0], 0), (0, layer.padding[1]))
        return (
            replace(linear(layer), filters=rank, size=(height, 1), stride=(down, 1), pad=above),
            replace(layer, size=(1, width), stride=(1, across), pad=beside),
        )

    def weights(self, weight: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
        [rank] = ranks
        filters, incoming, height, width = weight.shape
        left, right = truncated(_columns_by_rows(weight), rank)
        columns = left.T.reshape(rank, incoming, height, 1)
        rows = right.view(rank, filters, 1, width).transpose(0, 1)
        return in_float(columns, rows)


def _columns_by_rows(weight: Tensor) -> Tensor:
    """Float64 (I h, F w) of (F, I, h, w)."""
    filters, incoming, height, width = weight.shape
    return weight.double().permute(1, 2, 0, 3).reshape(incoming * height, filters * width)


def linear(layer: Convolution) -> Convolution:
    """The same filters, with nothing behind them."""
    return replace(layer, batch_normalize=False, activation="linear", bias=False)


def pointwise(layer: Convolution) -> Convolution:
    """The same number of filters, of one pixel, with what is behind the layer."""
    return replace(layer, size=1, stride=1, dilation=1, pad=None)


def in_float(*weights: Tensor) -> tuple[Tensor, ...]:
    return tuple(weight.float().contiguous() for weight in weights)


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Falling, all of them. matrix: float64, so that of squares, which are quicker to find, enough is left."""
    smaller = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values: Tensor = torch.linalg.eigvalsh(smaller @ smaller.T)
    return values.flip(0).clamp(min=0)


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The closest product of (m, rank) and (rank, n), as large one as the other: Eckart and Young."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    roots = values[:rank].sqrt()
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def macs_of(layers: Sequence[Convolution], taken: FeatureMap) -> int:
    """Of convolutions one after the other, for one image."""
    total = 0
    for layer in layers:
        given = layer.given([taken])
        total += layer.macs([taken], given)
        taken = given
    return total
