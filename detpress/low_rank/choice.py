"""Which layers are replaced, and of what ranks.

A layer may stay, or be replaced with all its ranks, with one less, and so on down to one. Each is a choice: its MACs,
and what is lost, the share of its weights' squares that such ranks leave out. Of Tucker's two ranks the one goes which
loses less for a MAC, and what is lost is at most the sum of both.

    layer 3     stays   (12,)   (11,)  ...  (2,)    (1,)
    MACs        9,216   8,448   7,744       1,408   704
    lost        0       0.01    0.02        0.44    0.61
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from detpress.detector.kinds import Convolution
from detpress.detector.layer import FeatureMap
from detpress.errors import InputError
from detpress.low_rank.factorization import Factorization, Ranks, macs_of


@dataclass(frozen=True)
class Choice:
    """ranks: none where the layer stays. macs: for one image. lost: share of the weights' squares."""

    ranks: Ranks
    macs: int
    lost: float


Choices = Mapping[int, Sequence[Choice]]  # layer number -> to stay, then fewer and fewer MACs, and more lost


def choices_of(
    method: Factorization, layer: Convolution, taken: FeatureMap, energies: Sequence[Tensor]
) -> list[Choice]:
    """energies: as `Factorization.energies`. Ranks that compute no less than the layer are left out."""
    left_out = [_left_out(each) for each in energies]

    def choice(ranks: Ranks) -> Choice:
        lost = sum(shares[rank] for shares, rank in zip(left_out, ranks, strict=True))
        return Choice(ranks, macs_of(method.layers(layer, ranks), taken), lost)

    stays = Choice((), macs_of([layer], taken), 0.0)
    now = choice(tuple(len(each) for each in energies))
    found = [now]
    while fewer := [choice(ranks) for ranks in _one_less(now.ranks)]:
        now = min(fewer, key=lambda other: _rate(now, other))
        found.append(now)
    return [stays, *(one for one in found if one.macs < stays.macs)]


def _left_out(energies: Tensor) -> list[float]:
    """By the rank, from 0 on: the share of the whole."""
    behind = energies.flip(0).cumsum(0).flip(0)
    whole = float(behind[0])
    return [float(each) / whole if whole else 0.0 for each in behind] + [0.0]


def _one_less(ranks: Ranks) -> list[Ranks]:
    return [(*ranks[:i], rank - 1, *ranks[i + 1 :]) for i, rank in enumerate(ranks) if rank > 1]


def keeping(choices: Choices, share: float) -> dict[int, Choice]:
    """Of each layer the fewest MACs that keep at least this share of the squares."""
    return {i: [one for one in every if 1 - one.lost >= share][-1] for i, every in choices.items()}


def within(choices: Choices, budget: int) -> dict[int, Choice]:
    """At most so many MACs of all these layers together, with little lost.

    From layers that all stay, the step is taken that loses least for each MAC that it saves, then the next one, until
    the budget is met; of the last one's layer, what loses least within it is chosen.
    Raises InputError where more is left with every layer at its fewest.
    """
    fewest = sum(every[-1].macs for every in choices.values())
    if fewest > budget:
        raise InputError(f"at least {fewest:,} MACs stay with every rank at 1, and {max(0, budget):,} are asked for")
    chosen = {i: every[0] for i, every in choices.items()}
    left = sum(one.macs for one in chosen.values())
    for i, step in _steps(choices):
        if left <= budget:
            break
        others = left - chosen[i].macs
        if others + step.macs <= budget:
            step = next(one for one in choices[i] if others + one.macs <= budget)
        chosen[i], left = step, others + step.macs
    return chosen


def _steps(choices: Choices) -> list[tuple[int, Choice]]:
    """Layers and what they go to, the one that loses least for each MAC first; of one layer, in order."""
    found = []
    for i, every in choices.items():
        for before, after in _worth_going_to(every):
            found.append((_rate(before, after), i, after))
    return [(i, after) for _, i, after in sorted(found, key=lambda one: (one[0], one[1], -one[2].macs))]


def _worth_going_to(every: Sequence[Choice]) -> list[tuple[Choice, Choice]]:
    """From each to the next of those that no other two surround: the lower convex hull of what is lost over MACs."""
    hull: list[Choice] = []
    for one in every:
        while len(hull) > 1 and _rate(hull[-2], one) <= _rate(hull[-2], hull[-1]):
            hull.pop()
        hull.append(one)
    return list(pairwise(hull))


def _rate(before: Choice, after: Choice) -> float:
    return (after.lost - before.lost) / (before.macs - after.macs)
