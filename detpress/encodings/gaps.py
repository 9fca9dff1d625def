"""Where the few codes of a sparse layer stand: the gap from each to the next.

    codes    0 7 0 0 3 0 0 0 0 0 5            gaps of 2 bits: at most 4 places further
    entries    7     3       0   5            (2, 7) (3, 3) (4, 0) (2, 5)

A gap that is too long for its bits has fillers, entries of code 0. Stored is the gap less 1. The entries are in the
order of the filters' memory. It is the relative index of Deep Compression, as its authors' AlexNet has it.
"""

import numpy as np
from numpy.typing import NDArray

from detpress.errors import InputError

Symbols = NDArray[np.int64]


def with_gaps(codes: Symbols, bits: int) -> tuple[Symbols, Symbols]:
    """Of codes (N,), the entries' codes and gaps less 1, both (entries,)."""
    longest = 1 << bits
    places = np.flatnonzero(codes)
    further = np.diff(places, prepend=-1) - 1
    ends = np.cumsum(further // longest + 1) - 1
    entries = int(ends[-1]) + 1 if len(ends) else 0
    found, gaps = np.zeros(entries, np.int64), np.full(entries, longest - 1)
    found[ends], gaps[ends] = codes[places], further % longest
    return found, gaps


def without_gaps(codes: Symbols, gaps: Symbols, count: int) -> Symbols:
    """The codes (count,) of entries. Raises InputError where these go beyond."""
    places = np.cumsum(gaps + 1) - 1
    if len(places) and places[-1] >= count:
        raise InputError(f"gaps lead to place {places[-1]} of {count}")
    found = np.zeros(count, np.int64)
    found[places] = codes
    return found
