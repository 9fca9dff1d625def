"""CP, the canonical polyadic decomposition: a sum of r products of a filter, a channel, a column and a row.

A start that is exact at full rank: in the bases of columns and rows that W itself has, each of the k k parts of W is a
matrix (F, I), and the products in all their singular value decompositions are orthogonal. Those with the largest values
are taken; what is left out is the error. From there, alternating least squares only lower it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from detpress.detector.kinds import Convolution
from detpress.low_rank.factorization import Factorization, Ranks, in_float, linear, pointwise, squared_singular_values

SWEEPS = 50  # of alternating least squares, at most
ENOUGH = 1e-4  # share of the squares: where a sweep gains less, it is the last
STAY = 1e-6  # weight of staying where it is, by the mean diagonal of what is solved: without it, products that nearly
# cancel each other grow, and what is solved is nearly singular

TINY = 1e-30  # of layers whose weights are all zero


class Cp(Factorization):
    """W (F, I, h, w) is a sum over r of a (F), b (I), c (h) and d (w), computed from b to d, and a in the end."""

    def fits(self, layer: Convolution) -> bool:
        return super().fits(layer) and min(layer.kernel) > 1

    def energies(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Of the start: alternating least squares leave less out."""
        parts, _, _ = _parts(weight.double())
        each = [squared_singular_values(part) for part in parts]
        return (torch.cat(each).sort(descending=True).values,)

    def layers(self, layer: Convolution, ranks: Ranks) -> tuple[Convolution, ...]:
        [rank] = ranks
        (height, width), (down, across) = layer.kernel, layer.strides
        above, beside = (None, None) if layer.pad is None else ((layer.padding[0], 0), (0, layer.padding[1]))
        alone = replace(linear(layer), filters=rank, groups=rank)
        return (
            replace(linear(pointwise(layer)), filters=rank),
            replace(alone, size=(height, 1), stride=(down, 1), pad=above),
            replace(alone, size=(1, width), stride=(1, across), pad=beside),
            pointwise(layer),
        )

    def weights(self, weight: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
        [rank] = ranks
        whole = weight.double()
        a, b, c, d = _alternated(whole, _start(whole, rank))
        return in_float(b.T[:, :, None, None], c.T[:, None, :, None], d.T[:, None, None, :], a[:, :, None, None])


def _parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parts (h w, F, I) in the bases of columns (h, h) and of rows (w, w), whose vectors are their columns."""
    bases = []
    for dimension in (2, 3):
        matrix = weight.movedim(dimension, 0).flatten(1)
        bases.append(torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1))
    columns, rows = bases
    return torch.einsum("fihw,hc,wd->cdfi", weight, columns, rows).flatten(0, 1), columns, rows


def _start(weight: Tensor, rank: int) -> list[Tensor]:
    """(F, r), (I, r), (h, r) and (w, r), all as long as one another."""
    parts, columns, rows = _parts(weight)
    left, values, right = torch.linalg.svd(parts, full_matrices=False)
    chosen = values.flatten().argsort(descending=True, stable=True)[:rank]
    part, number = chosen // values.shape[1], chosen % values.shape[1]
    factors = [left[part, :, number].T, right[part, number].T]
    factors += [columns[:, part // len(rows)], rows[:, part % len(rows)]]
    length = values.flatten()[chosen] ** 0.25
    return [factor * length for factor in factors]


def _alternated(weight: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Each factor in turn by least squares, the others as they are."""
    whole, error = float(weight.square().sum()), float("inf")
    for _ in range(SWEEPS):
        for mode, own in enumerate("fihw"):
            others = [factor for other, factor in enumerate(factors) if other != mode]
            letters = ",".join(f"{letter}r" for letter in "fihw" if letter != own)
            target = torch.einsum(f"fihw,{letters}->{own}r", weight, *others)
            products = torch.stack([other.T @ other for other in others]).prod(dim=0)
            stay = (STAY * products.diagonal().mean()).clamp(min=TINY)
            solved = products + stay * torch.eye(len(products), dtype=products.dtype)
            factors[mode] = torch.linalg.solve(solved, (target + stay * factors[mode]).T).T
        before, found = error, factors[-1]
        error = whole - 2 * float((target * found).sum()) + float((products * (found.T @ found)).sum())
        lengths = torch.stack([factor.norm(dim=0) for factor in factors]).clamp(min=TINY)
        even = lengths.log().mean(dim=0).exp()
        factors = [factor * even / length for factor, length in zip(factors, lengths, strict=True)]
        if before - error <= ENOUGH * whole:
            break
    return factors
