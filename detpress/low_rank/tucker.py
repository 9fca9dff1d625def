"""Tucker-2: a basis of the input channels, one of the filters, and a smaller convolution between them."""

from dataclasses import replace

import torch
from torch import Tensor

from detpress.detector.kinds import Convolution
from detpress.low_rank.factorization import (
    Factorization,
    Ranks,
    in_float,
    linear,
    pointwise,
    squared_singular_values,
)

SWEEPS = 10  # of both bases


class Tucker(Factorization):
    """W (F, I, h, w) is a core (s, r, h, w) by a basis (I, r) and a basis (F, s); ranks are (r, s).

    Begins with the singular vectors of both sides, then makes each basis the best for the other, in turns.
    """

    def fits(self, layer: Convolution) -> bool:
        return super().fits(layer) and max(layer.kernel) > 1

    def energies(self, weight: Tensor) -> tuple[Tensor, ...]:
        filters, incoming = weight.shape[:2]
        by_input, by_filter = _by_input(weight.double()), weight.double().flatten(1)
        # no more of one side than there can be: beyond it nothing is added
        return (
            squared_singular_values(by_input)[: min(incoming, by_input.shape[1])],
            squared_singular_values(by_filter)[: min(filters, by_filter.shape[1])],
        )

    def layers(self, layer: Convolution, ranks: Ranks) -> tuple[Convolution, ...]:
        inside, outside = ranks
        return (
            replace(linear(pointwise(layer)), filters=inside),
            replace(linear(layer), filters=outside),
            pointwise(layer),
        )

    def weights(self, weight: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
        inside, outside = ranks
        whole = weight.double()
        of_filters = _leading(whole.flatten(1), outside)
        for _ in range(SWEEPS):
            of_input = _leading(_by_input(torch.einsum("fihw,fs->sihw", whole, of_filters)), inside)
            of_filters = _leading(torch.einsum("fihw,ir->frhw", whole, of_input).flatten(1), outside)
        core = torch.einsum("fihw,ir,fs->srhw", whole, of_input, of_filters)
        return in_float(of_input.T[:, :, None, None], core, of_filters[:, :, None, None])


def _by_input(weight: Tensor) -> Tensor:
    """(I, F h w) of (F, I, h, w)."""
    return weight.transpose(0, 1).flatten(1)


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The first left singular vectors, (m, rank)."""
    vectors: Tensor = torch.linalg.eigh(matrix @ matrix.T).eigenvectors
    return vectors.flip(1)[:, :rank]
