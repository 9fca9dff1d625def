"""Canonical Huffman codes: symbols in as few bits as their counts allow with whole bits for each.

Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952; canonical: codes of one length are
consecutive numbers, those of shorter ones come first, so that the lengths alone say the code (as in DEFLATE, RFC 1951).
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from detpress.encodings.bits import packed, unpacked
from detpress.errors import InputError

Symbols = NDArray[np.int64]
LENGTH_BITS = 5  # of a code's length in a table
LONGEST = 2**LENGTH_BITS - 1
BLOCK = 1 << 18  # bits that are looked at together
PEEK = 16  # bits, at most, by which a code is looked up in a table


def code_lengths(counts: Symbols) -> Symbols:
    """Bits of the code of each symbol, 0 of one that does not occur; counts: (symbols,).

    A single symbol has one bit. Where a code would be longer than `LONGEST`, counts are halved first.
    """
    lengths = _huffman_lengths(counts)
    while lengths.max(initial=0) > LONGEST:
        counts = (counts + 1) // 2
        lengths = _huffman_lengths(counts)
    return lengths


def _huffman_lengths(counts: Symbols) -> Symbols:
    lengths = np.zeros(len(counts), np.int64)
    heap = [(int(counts[symbol]), int(symbol), [int(symbol)]) for symbol in np.flatnonzero(counts)]
    if len(heap) == 1:
        lengths[heap[0][2]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        one, other = heapq.heappop(heap), heapq.heappop(heap)
        together = one[2] + other[2]
        lengths[together] += 1
        heapq.heappush(heap, (one[0] + other[0], min(one[1], other[1]), together))
    return lengths


def _canonical(lengths: Symbols) -> tuple[Symbols, Symbols]:
    """The symbols that occur, by length and then by number, and the code of each, aligned to the longest's length."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    steps = 1 << (lengths.max(initial=0) - lengths[order])
    return order, np.concatenate([[0], np.cumsum(steps)[:-1]]) if len(order) else steps


def table_bytes(lengths: Symbols) -> bytes:
    """The lengths, `LENGTH_BITS` each."""
    return packed(lengths, LENGTH_BITS)


def read_table(stored: bytes, symbols: int) -> Symbols:
    """Of `table_bytes`. Raises InputError for lengths that make no Huffman code."""
    lengths = unpacked(stored, LENGTH_BITS, symbols)
    used = lengths[lengths > 0]
    whole = int((1 << (LONGEST - used)).sum())
    if len(used) and not (whole == 1 << LONGEST or (len(used) == 1 and used[0] == 1)):
        raise InputError("the lengths of a table make no Huffman code")
    return lengths


def encode(symbols: Symbols, lengths: Symbols) -> bytes:
    """The codes of the symbols one after the other, the highest bit first, zeros up to a whole byte."""
    order, aligned = _canonical(lengths)
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = aligned >> (lengths.max(initial=0) - lengths[order])
    each, length = codes[symbols], lengths[symbols]
    ends = np.cumsum(length)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for place in range(int(lengths.max(initial=0))):  # counted from a code's last bit
        there = length > place
        bits[ends[there] - 1 - place] = each[there] >> place & 1
    return np.packbits(bits).tobytes()


def decode(stored: bytes, lengths: Symbols, count: int) -> Symbols:
    """The first `count` symbols. Raises InputError where the bytes are not exactly those of so many."""
    longest = int(lengths.max(initial=0))
    if not longest:
        if count or stored:
            raise InputError(f"{count} symbols in {len(stored)} bytes, and an empty table")
        return np.zeros(0, np.int64)
    if count > 8 * len(stored):
        raise InputError(f"{count} symbols in {len(stored)} bytes")
    order, aligned = _canonical(lengths)
    steps = lengths[order]
    peek = min(PEEK, longest)
    table = np.searchsorted(aligned, np.arange(1 << peek) << (longest - peek), side="right") - 1
    padded = np.frombuffer(stored + bytes(8), np.uint8)
    found, done, place, bits = np.zeros(count, np.int64), 0, 0, 8 * len(stored)
    while done < count:
        if place >= bits:
            raise InputError(f"{done} symbols in {len(stored)} bytes; expected {count}")
        start = place
        windows = _windows(padded, start, min(BLOCK, bits - start), longest)
        ranks = table[windows >> (longest - peek)]
        long = steps[ranks] > peek
        ranks[long] = np.searchsorted(aligned, windows[long], side="right") - 1
        further = steps[ranks].tolist()
        places: list[int] = []
        while done + len(places) < count and place - start < len(further):
            places.append(place - start)
            place += further[place - start]
        found[done : done + len(places)] = order[ranks[places]]
        done += len(places)
    tail = padded[place // 8 :].copy()
    tail[:1] &= 0xFF >> (place % 8)
    if place > bits or -(-place // 8) != len(stored) or tail.any():
        raise InputError(f"{count} symbols take {place} bits; found {len(stored)} bytes that are not theirs alone")
    return found


def _windows(padded: NDArray[np.uint8], start: int, count: int, width: int) -> Symbols:
    """The numbers that `width` bits make from each of `count` places on, the first of which is bit `start`."""
    first = start // 8
    rows = (start + count - 1) // 8 - first + 1
    words = np.zeros(rows, np.uint64)
    for place in range(8):  # the last rows look beyond what is there: zeros
        part = padded[first + place : first + place + rows].astype(np.uint64)
        words[: len(part)] |= part << np.uint64(56 - 8 * place)
    shifted = words[:, None] << np.arange(8, dtype=np.uint64)
    windows = (shifted >> np.uint64(64 - width)).astype(np.int64).ravel()
    return windows[start % 8 : start % 8 + count]


def entropy_bits(symbols: Symbols) -> float:
    """What no code that gives each symbol its own bits, whatever stands around it, goes below, table not counted."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())
