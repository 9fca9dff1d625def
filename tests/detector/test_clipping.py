"""CLIP-Q's levels: the paper's figure in numbers, and what holds for any weights."""

from itertools import pairwise

import pytest
import torch

from detpress.encodings.clipping import clipped_levels
from detpress.encodings.shared import looked_up


def test_16_weights_a_quarter_clipped_in_2_bits_are_4_zeros_and_3_levels() -> None:
    """c- = -0.2, c+ = 0.2. Lengths 0.6 and 1.3: one interval below, two above, cut at 0.2 + 1.3 / 2 = 0.85."""
    negative, positive = [-0.8, -0.6, -0.5, -0.5, -0.4, -0.2, -0.2, -0.3], [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.5]
    weight = torch.tensor(negative + positive).reshape(4, 4, 1, 1)
    found = clipped_levels(weight, 0.25, 2)
    assert int((found.codes == 0).sum()) == 4
    below = [-0.8, -0.6, -0.5, -0.5, -0.4, -0.3]
    expected = [sum(below) / 6, (0.3 + 0.5 + 0.7 + 0.8) / 4, (0.9 + 1.5) / 2]
    assert found.codebook.tolist() == pytest.approx(expected)
    levels = looked_up(found.codebook, found.codes, found.sparse).flatten()
    assert levels[[5, 6, 8, 9]].tolist() == [0, 0, 0, 0]
    assert levels[0] == pytest.approx(expected[0])
    assert levels[[10, 12]].tolist() == pytest.approx([expected[1]] * 2)
    assert found.encoding.stored_bits == 2


def test_each_level_is_the_mean_of_its_weights_which_lie_side_by_side() -> None:
    weight = torch.randn(32, 8, 3, 3, generator=torch.Generator().manual_seed(0)) ** 3
    found = clipped_levels(weight, 0.5, 4)
    assert int((found.codes == 0).sum()) == pytest.approx(weight.numel() / 2, abs=2)
    assert len(found.codebook) <= 15
    groups = [weight[found.codes == code] for code in range(1, 1 + len(found.codebook))]
    for level, members in zip(found.codebook, groups, strict=True):
        assert level == pytest.approx(float(members.mean()), rel=1e-5)
        assert (members > 0).all() or (members < 0).all()
    for one, other in pairwise(groups):
        assert one.max() < other.min()


def test_weights_of_one_sign_none_clipped_and_none_at_all() -> None:
    one_sign = clipped_levels(torch.tensor([0.1, 0.4, 0.7, 1.0]).reshape(4, 1, 1, 1), 0.0, 2)
    assert one_sign.codes.flatten().tolist() == [1, 2, 3, 3]
    assert one_sign.codebook.tolist() == pytest.approx([0.1, 0.4, 0.85])
    zeros = clipped_levels(torch.zeros(2, 1, 1, 1), 0.5, 2)
    assert zeros.codes.flatten().tolist() == [0, 0]
    assert zeros.codebook.tolist() == []
