"""CLIP-Q's levels: the weights nearest to zero are clipped to it, the others share the means of equal intervals.

        min            c-    0    c+                 max
    negative:  |   |   |   zeros   |   |   |   |   : positive

16 weights, a quarter clipped, 2 bits: 4 zeros and 3 levels.
"""

import torch
from torch import Tensor

from detpress.encodings.shared import Clusters


def clipped_levels(weight: Tensor, share: float, bits: int) -> Clusters:
    """The levels of a layer: of at most 2**bits - 1 values beside zero, which code 0 stands for.

    Tung and Mori, "CLIP-Q: Deep Network Compression Learning by In-Parallel Pruning-Quantization", CVPR 2018: `share`
    of the positive weights are below c+ and `share` of the negative ones above c-, and become 0; what is left of the
    line is cut into 2**bits - 1 intervals of equal length, and all weights of an interval have their mean. A side has
    as many of the intervals as its length asks for, and at least one: so an interval has weights of one sign.

    weight: float32 (F, I, k, k). share: from 0 to below 1. bits: at least 2.
    """
    flat = weight.detach().flatten()
    low, lowest = _clip_and_end(-flat, share)
    high, highest = _clip_and_end(flat, share)
    below, above = flat < -low, flat > high
    count = 2**bits - 1
    lengths = lowest - low, highest - high
    negative = _intervals(lengths, count) if bool(below.any()) else 0
    positive = count - negative if bool(above.any()) else 0
    negative = negative if positive else count
    codes = torch.zeros_like(flat, dtype=torch.int64)
    codes[below] = 1 + _places(lowest + flat[below], lengths[0], negative)
    codes[above] = 1 + negative + _places(flat[above] - high, lengths[1], positive)
    counts = torch.bincount(codes, minlength=1 + count)
    sums = torch.zeros(1 + count, dtype=torch.float64).index_add_(0, codes.cpu(), flat.double().cpu())
    used = counts.cpu() > 0
    used[0] = True
    means = (sums / counts.cpu().clamp(min=1))[used][1:].float()
    renumbered = (used.cumsum(0) - 1).to(codes.device)[codes]
    return Clusters(means.to(weight.device), renumbered.reshape(weight.shape), sparse=True)


def _clip_and_end(values: Tensor, share: float) -> tuple[float, float]:
    """Of the positive values: the largest that is clipped, 0 where none is, and the largest of all."""
    positive = values[values > 0]
    clipped = int(share * len(positive))
    largest = float(positive.max()) if len(positive) else 0.0
    return (float(positive.kthvalue(clipped).values) if clipped else 0.0), largest


def _intervals(lengths: tuple[float, float], count: int) -> int:
    """How many of `count` intervals the first side has."""
    return min(max(round(count * lengths[0] / (lengths[0] + lengths[1])), 1), count - 1)


def _places(distances: Tensor, length: float, count: int) -> Tensor:
    """In which of `count` equal parts of a side each of its weights lies; distances: from the side's lower end."""
    if not len(distances):
        return distances.long()
    return (distances * (count / length)).long().clamp(0, count - 1)
