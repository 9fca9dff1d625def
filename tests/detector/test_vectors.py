"""Vector quantization: which words stand for sub-vectors, what they take, and that they come back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from detpress.detector.geometry import Geometry
from detpress.encodings.vector_clustering import from_pieces, moments_of, pieces_of, words_in_stages, words_of
from detpress.encodings.vector_fitting import Cut, words_of_weight
from detpress.encodings.vectors import Vectors, looked_up
from detpress.errors import InputError


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@given(st.integers(1, 4), st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 20))
def test_pieces_come_back_and_the_last_of_a_filter_is_filled_up_with_zeros(f: int, i: int, k: int, size: int) -> None:
    given = weight(f, i, k, k)
    pieces = pieces_of(given, size)
    assert pieces.shape == (f, -(-i * k * k // size), size)
    assert pieces.flatten(1)[:, i * k * k :].count_nonzero() == 0
    assert torch.equal(from_pieces(pieces, given.shape), given)
    assert torch.equal(pieces_of(weight(2, 5, 3, 3), 9), weight(2, 5, 3, 3).flatten(2)), "9: a channel's filter"


@pytest.mark.parametrize("stages", [1, 3])
def test_a_codebook_takes_32_k_d_bits_and_its_codes_n_log2_k(stages: int) -> None:
    """8 filters of 4 channels are 32 sub-vectors of 9."""
    words = words_of_weight(weight(8, 4, 3, 3), Cut(9, 16, stages), None, seed=0)
    encoding, tensors = words.encoded("float32")
    assert encoding == Vectors(9, 16, stages, "float32")
    assert 8 * sum(tensor.nbytes for tensor in tensors.values()) == stages * (32 * 16 * 9 + 32 * 4)
    _, small = words.encoded("int8")
    assert 8 * small["codebook"].nbytes == stages * 8 * 16 * 9


@pytest.mark.parametrize("size", [4, 9, 36])
def test_as_many_words_as_there_are_different_sub_vectors_give_the_layer_back(size: int) -> None:
    few = weight(5, 4, 3, 3)[torch.tensor([0, 3, 1, 4, 0, 2, 2])]
    words = words_of_weight(few, Cut(size, 5 * -(-36 // size), 1), None, seed=0)
    encoding, tensors = words.encoded("float32")
    ones = torch.ones(7)
    assert torch.equal(encoding.weight(tensors | {"gain": ones}, few.shape), few)
    gain = torch.arange(1.0, 8.0)
    assert torch.equal(encoding.weight(tensors | {"gain": gain}, few.shape), few * gain[:, None, None, None])


def test_each_stage_has_the_words_of_what_those_before_it_leave() -> None:
    vectors = weight(200, 4).double().numpy()
    words, codes = words_in_stages(vectors, 8, 3, None, seed=0)
    one, own = words_of(vectors, 8, None, seed=0)
    np.testing.assert_array_equal(words[0], one)
    np.testing.assert_array_equal(codes[0], own)
    left = [vectors]
    for stage in range(3):
        left.append(left[-1] - words[stage][codes[stage]])
        means = [left[stage][codes[stage] == word].mean(axis=0) for word in range(8)]
        np.testing.assert_allclose(words[stage], means, atol=1e-12)
    sizes = [np.square(rest).sum() for rest in left]
    assert sizes == sorted(sizes, reverse=True)
    np.testing.assert_array_equal(words_in_stages(vectors, 8, 3, None, seed=0)[1], codes)


def test_near_is_what_the_inputs_tell_apart() -> None:
    vectors = np.array([[0.0, 0.0], [0.0, 10.0], [1.0, 0.0], [1.0, 10.0]])
    plain, _ = words_of(vectors, 2, None, seed=0)
    assert sorted(plain.tolist()) == [[0.5, 0.0], [0.5, 10.0]]
    by_inputs, codes = words_of(vectors, 2, np.diag([1e6, 1.0]), seed=0)
    assert sorted(by_inputs.tolist()) == [[0.0, 5.0], [1.0, 5.0]]
    assert codes[0] == codes[1] != codes[2] == codes[3]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_moments_say_what_a_layer_makes_of_its_inputs(groups: int) -> None:
    """The mean square of the output is w M w, for a sub-vector that is all that a filter has."""
    inputs, filters = weight(3, 4, 9, 7), weight(1, 4 // groups, 3, 3).expand(groups, -1, -1, -1)
    layer = nn.Conv2d(4, groups, 3, stride=2, padding=1, groups=groups)
    given = functional.conv2d(inputs, filters, None, 2, 1, 1, groups)
    vector = filters[0].flatten().double().numpy()
    moments = moments_of(inputs, Geometry.of(layer), vector.size)
    assert vector @ moments @ vector == pytest.approx(float(given.square().mean()), rel=1e-5)
    smaller = moments_of(inputs, Geometry.of(layer), 9)
    channels = [moments[at : at + 9, at : at + 9] for at in range(0, vector.size, 9)]
    np.testing.assert_allclose(smaller, np.mean(channels, axis=0), rtol=1e-9)


def test_a_word_learns_by_the_sum_of_the_gradients_of_its_sub_vectors() -> None:
    words = words_of_weight(weight(6, 3, 3, 3), Cut(4, 4, 2), None, seed=0)
    book = words.codebook.clone().requires_grad_(True)
    gradient = torch.ones(6, 3, 3, 3)
    looked_up(book, words.codes, words.shape).backward(gradient)
    pieces = pieces_of(gradient, 4)
    for stage, word in ((0, 0), (1, 3)):
        torch.testing.assert_close(book.grad[stage, word], pieces[words.codes[stage] == word].sum(0))


def test_numbers_of_8_bits_are_half_a_step_away_at_most() -> None:
    words = words_of_weight(weight(32, 8, 1, 1), Cut(4, 16, 2), None, seed=0)
    for number, most in (("int8", 1 / 254), ("float16", 2**-11)):
        encoding, tensors = words.encoded(number)
        found = encoding.weight(tensors | {"gain": torch.ones(32)}, words.shape)
        exact = words.weight(words.codebook, words.codes)
        assert float((found - exact).abs().max()) <= most * float(words.codebook.abs().amax((1, 2)).sum()) * 1.001


def test_what_is_no_codebook_is_refused() -> None:
    with pytest.raises(InputError, match="code 3 of a codebook of 3 words"):
        Vectors(4, 3, 1, "float32").unpacked(torch.tensor([0b00011011], dtype=torch.uint8), torch.Size((1, 16, 1, 1)))
    for description in ({"words": 0}, {"stages": 9}, {"size": 2**17}, {"number": "int4"}):
        with pytest.raises(InputError, match=r"^here: "):
            Vectors.from_dict("here", {"size": 4, "words": 3, "stages": 1, "number": "int8"} | description)
    bits = [Vectors(9, words, 1, "int8").stored_bits for words in (1, 256, 1024)]
    assert bits == [1, 1, 2]
