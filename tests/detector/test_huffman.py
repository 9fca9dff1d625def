"""Shared weights in Huffman codes and gaps: the same bits come back, and what is damaged is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detpress.encodings.bits import packed, unpacked
from detpress.encodings.gaps import with_gaps, without_gaps
from detpress.encodings.huffman import GAP_BITS, HEAD, Huffman, huffman_of, shared_of, smallest_of
from detpress.encodings.huffman_code import (
    LONGEST,
    code_lengths,
    decode,
    encode,
    entropy_bits,
    read_table,
    table_bytes,
)
from detpress.encodings.shared import Shared
from detpress.errors import InputError

small = st.lists(st.integers(0, 20), max_size=200)


def lengths_of(symbols: np.ndarray) -> np.ndarray:
    return code_lengths(np.bincount(symbols, minlength=21))


def test_the_code_of_a_textbook() -> None:
    """Counts 45, 13, 12, 16, 9, 5: 224 bits for 100 symbols (Cormen et al., Introduction to Algorithms, 16.3)."""
    counts = np.array([45, 13, 12, 16, 9, 5])
    lengths = code_lengths(counts)
    assert lengths.tolist() == [1, 3, 3, 3, 4, 4]
    assert (lengths * counts).sum() == 224
    assert encode(np.arange(6), lengths) == bytes([0b01001011, 0b10111011, 0b11000000])
    assert decode(encode(np.arange(6), lengths), lengths, 6).tolist() == [0, 1, 2, 3, 4, 5]


@given(small)
def test_symbols_come_back_in_less_than_a_bit_a_symbol_more_than_their_entropy(drawn: list[int]) -> None:
    symbols = np.array(drawn, np.int64)
    lengths = lengths_of(symbols)
    assert read_table(table_bytes(lengths), len(lengths)).tolist() == lengths.tolist()
    stored = encode(symbols, lengths)
    assert decode(stored, lengths, len(symbols)).tolist() == drawn
    if len(set(drawn)) > 1:
        assert entropy_bits(symbols) <= lengths[symbols].sum() < entropy_bits(symbols) + len(symbols)


@given(small, st.binary(max_size=40))
def test_other_bytes_are_other_symbols_or_refused(drawn: list[int], other: bytes) -> None:
    symbols = np.array(drawn, np.int64)
    lengths = lengths_of(symbols)
    if other == encode(symbols, lengths):
        return
    try:
        found = decode(other, lengths, len(symbols))
    except InputError:
        return
    assert len(found) == len(symbols)
    assert found.tolist() != drawn


def test_codes_longer_than_a_table_holds_are_shortened() -> None:
    counts = np.array([int(1.7**i) + 1 for i in range(60)])
    lengths = code_lengths(counts)
    assert lengths.max() <= LONGEST
    symbols = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 50))
    assert decode(encode(symbols, lengths), lengths, 3000).tolist() == symbols.tolist()


@pytest.mark.parametrize("lengths", [[1, 1, 1], [2, 2, 2], [2], [31, 31]])
def test_a_table_that_makes_no_code_is_refused(lengths: list[int]) -> None:
    with pytest.raises(InputError, match="make no Huffman code"):
        read_table(table_bytes(np.array(lengths)), len(lengths))


@given(st.lists(st.integers(0, 31)))
def test_numbers_of_few_bits_come_back(drawn: list[int]) -> None:
    stored = packed(np.array(drawn, np.int64), 5)
    assert len(stored) == -(-5 * len(drawn) // 8)
    assert unpacked(stored, 5, len(drawn)).tolist() == drawn


def test_a_gap_too_long_for_its_bits_has_a_filler_as_in_the_papers_figure_2() -> None:
    """Places 1, 4 and 15 in 3 bits: 11 from the second to the third, of which 8 are a filler zero."""
    codes = np.zeros(16, np.int64)
    codes[[1, 4, 15]] = [9, 5, 7]
    entries, gaps = with_gaps(codes, 3)
    assert entries.tolist() == [9, 5, 0, 7]
    assert (gaps[1:] + 1).tolist() == [3, 8, 3]


@given(st.lists(st.sampled_from([0] * 30 + [1, 2, 200]), max_size=400), st.sampled_from(GAP_BITS))
def test_places_come_back_whatever_is_between_them(drawn: list[int], bits: int) -> None:
    codes = np.array(drawn, np.int64)
    entries, gaps = with_gaps(codes, bits)
    assert (gaps < 1 << bits).all()
    assert len(entries) <= len(codes)
    assert without_gaps(entries, gaps, len(codes)).tolist() == drawn


def test_gaps_that_lead_beyond_the_layer_are_refused() -> None:
    with pytest.raises(InputError, match="gaps lead to place 5 of 5"):
        without_gaps(np.array([1, 1]), np.array([2, 2]), 5)


def layer(
    sparse: bool, values: int = 7, shape: tuple[int, ...] = (4, 5, 3, 3)
) -> tuple[Shared, dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, values + sparse, shape, generator=random)
    if sparse:
        codes *= torch.rand(shape, generator=random) < 0.1
    tensors = {
        "codebook": torch.randn(values, generator=random),
        "codes": codes.to(torch.uint8),
        "gain": torch.randn(shape[0], generator=random),
        "bias": torch.randn(shape[0], generator=random),
    }
    return Shared(values, sparse), tensors


@pytest.mark.parametrize("gap_bits", GAP_BITS)
@pytest.mark.parametrize(("sparse", "values"), [(True, 7), (True, 0), (True, 255), (False, 1), (False, 256)])
def test_a_layer_comes_back_bit_for_bit_and_its_bytes_are_all_accounted_for(
    sparse: bool, values: int, gap_bits: int
) -> None:
    encoding, tensors = layer(sparse, values)
    shape = tensors["codes"].shape
    huffman, stored, parts = huffman_of(encoding, tensors, gap_bits)
    assert huffman == Huffman(encoding.stored_bits, len(stored["stream"]))
    again, found = shared_of(stored, shape)
    assert again == encoding
    assert found.keys() == tensors.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in tensors.items())
    assert torch.equal(huffman.weight(stored, shape), encoding.weight(tensors, shape))
    assert parts.total == huffman.stored_bytes(stored) == sum(tensor.nbytes for tensor in stored.values())
    assert parts.entropy <= parts.code + parts.index
    best = smallest_of(encoding, tensors)[2].total
    assert best <= parts.total
    assert best == min(huffman_of(encoding, tensors, bits)[2].total for bits in GAP_BITS)


@settings(max_examples=200)
@given(st.booleans(), st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 3))
def test_a_damaged_stream_is_refused_or_is_another_layer_of_the_same_shape(
    sparse: bool, place: int, byte: int, cut: int
) -> None:
    encoding, tensors = layer(sparse)
    shape = tensors["codes"].shape
    _, stored, _ = huffman_of(encoding, tensors, 4)
    stream = stored["stream"].clone()
    stream[place % len(stream)] = byte
    stream = stream[: len(stream) - cut]
    try:
        found, others = shared_of(stored | {"stream": stream}, shape)
    except InputError:
        return
    assert others["codes"].shape == shape
    assert int(others["codes"].max()) < found.symbols


def test_a_head_that_claims_more_than_there_is_takes_no_memory() -> None:
    encoding, tensors = layer(sparse=True)
    shape = tensors["codes"].shape
    _, stored, _ = huffman_of(encoding, tensors, 4)
    tail = stored["stream"][HEAD.size :]
    for head, message in [
        ((1, 4, 7, 2**32 - 1, 10), "a stream of 4294967295 entries for 180 weights"),
        ((1, 4, 7, 100, 2**32 - 1), "its head says at least"),
        ((1, 4, 256, 10, 10), "expected codes of at most 8 bits"),
        ((1, 3, 7, 10, 10), "gaps of 3 bits"),
        ((2, 4, 7, 10, 10), "version 2"),
    ]:
        stream = torch.cat([torch.frombuffer(bytearray(HEAD.pack(*head)), dtype=torch.uint8), tail])
        with pytest.raises(InputError, match=message):
            shared_of(stored | {"stream": stream}, shape)
    with pytest.raises(InputError, match="expected at least 12"):
        Huffman(5, 3)
