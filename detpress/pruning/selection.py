"""Which of many scored things are kept: exactly so many, whatever the scores.

What is scored comes in entries (the weights of a layer, the filters of a group), each a tensor under a key of its own.
`kept` says of each element whether it is still there. Nothing that is gone comes back.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from detpress.errors import InputError

Key = TypeVar("Key")
Ranking = Literal["uniform", "global"]  # the same share of every entry, or the lowest scores of all entries


def left_after(number: int, share: float, rounds: int = 1) -> int:
    """How many of `number` are left after rounds that each remove a share of what the ones before have left.

    The removed are rounded down, once, not in every round: of 864 weights, 0.9 removes 777. The share is the decimal
    number that a recipe writes, not the binary one next to it.
    """
    removed = 1 - (1 - Fraction(str(share))) ** rounds
    return number - math.floor(number * removed)


def select(
    scores: Mapping[Key, Tensor],
    kept: Mapping[Key, Tensor],
    share: float,
    ranking: Ranking,
    rounds: int = 1,
    at_least: int = 0,
) -> dict[Key, Tensor]:
    """`kept` without its lowest scores, so that as much is left as after so many rounds of this share.

    scores: real, of the entry's shape. kept: bool, of the same keys and shapes. at_least: so many of each entry stay.
    Raises InputError where fewer can go than should.
    """
    if ranking == "global":
        whole, there = (sum(int(count) for count in counts) for counts in _counts(kept))
        return without_lowest(scores, kept, max(0, there - left_after(whole, share, rounds)), at_least)
    selected: dict[Key, Tensor] = {}
    for key, whole, there in zip(scores, *_counts({key: kept[key] for key in scores}), strict=True):
        number = max(0, there - max(at_least, left_after(whole, share, rounds)))
        selected |= without_lowest({key: scores[key]}, {key: kept[key]}, number, at_least)
    return selected


def _counts(kept: Mapping[Any, Tensor]) -> tuple[list[int], list[int]]:
    """Elements of each entry, and how many of them are kept."""
    return [mask.numel() for mask in kept.values()], [int(mask.sum()) for mask in kept.values()]


@torch.no_grad()
def without_lowest(
    scores: Mapping[Key, Tensor], kept: Mapping[Key, Tensor], number: int, at_least: int = 0
) -> dict[Key, Tensor]:
    """`kept` without the `number` lowest scores of all entries together; of equal scores those that come first go.

    The arguments are those of `select`.
    """
    if not number:
        return {key: kept[key].clone() for key in scores}
    flat = torch.cat([score.flatten() for score in scores.values()])
    still = torch.cat([kept[key].flatten() for key in scores])
    free = torch.cat([_free(scores[key], kept[key], at_least).flatten() for key in scores]) if at_least else still
    candidates = flat[free]
    if number > len(candidates):
        raise InputError(f"{number} are to be removed, but at most {len(candidates)} can go")
    threshold = candidates.kthvalue(number).values
    below, level = free & (flat < threshold), free & (flat == threshold)
    gone = below | (level & (level.cumsum(0) <= number - below.sum()))
    parts = torch.split(still & ~gone, [score.numel() for score in scores.values()])
    return {key: part.view(kept[key].shape).clone() for key, part in zip(scores, parts, strict=True)}


def _free(score: Tensor, kept: Tensor, at_least: int) -> Tensor:
    """What is kept, but for the `at_least` highest of it."""
    order = score.flatten().masked_fill(~kept.flatten(), -math.inf).argsort(stable=True)
    free = kept.flatten().clone()
    free[order[-at_least:]] = False
    return free.view(kept.shape)


def random_scores(kept: Mapping[Key, Tensor], seed: int) -> dict[Key, Tensor]:
    """Scores of which each order is as probable as any other: float64, of the entries' shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(mask.shape, generator=generator, dtype=torch.float64) for key, mask in kept.items()}


def shuffled(kept: Mapping[Key, Tensor], seed: int) -> dict[Key, Tensor]:
    """As many of each entry, drawn at random."""
    scores = random_scores(kept, seed)
    left: dict[Key, Tensor] = {}
    for key, mask in kept.items():
        left |= without_lowest({key: scores[key]}, {key: torch.ones_like(mask)}, int((~mask).sum()))
    return left
