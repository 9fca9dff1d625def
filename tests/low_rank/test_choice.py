"""Ranks by shares of energy and by budgets of MACs: exact, and the least lost."""

from itertools import product

import pytest
import torch

from detpress.detector.kinds import Convolution
from detpress.detector.layer import FeatureMap
from detpress.errors import InputError
from detpress.low_rank.choice import Choice, choices_of, keeping, within
from detpress.low_rank.factorization import Svd
from detpress.low_rank.tucker import Tucker

STAYS = Choice((), 100, 0.0)
EARLY = [STAYS, Choice((3,), 80, 0.1), Choice((2,), 50, 0.2), Choice((1,), 20, 0.6)]
LATE = [STAYS, Choice((2,), 60, 0.04), Choice((1,), 30, 0.5)]
BOTH = {1: EARLY, 5: LATE}


def test_a_layer_stays_or_has_ranks_that_compute_less() -> None:
    """4 filters of 2 x 3 x 3 on 5 x 5 pixels: 72 weights, and of rank r 22 r, so 3 at most."""
    energies = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    found = choices_of(Svd(), Convolution(4, 3), FeatureMap(2, 5), (energies,))
    assert [(one.ranks, one.macs) for one in found] == [((), 1800), ((3,), 1650), ((2,), 1100), ((1,), 550)]
    assert [one.lost for one in found] == pytest.approx([0, 0.1, 0.3, 0.6])


def test_of_two_ranks_the_one_goes_first_that_loses_less_for_a_mac() -> None:
    """6 filters of 5 x 3 x 3: a channel costs 5 + 9 s MACs a pixel, a filter 6 + 9 r."""
    energies = torch.tensor([9.0, 0.5, 0.5]).double(), torch.tensor([6.0, 4.0]).double()
    found = choices_of(Tucker(), Convolution(6, 3), FeatureMap(5, 1), energies)
    assert [one.ranks for one in found] == [(), (3, 2), (2, 2), (1, 2), (1, 1)]
    assert [one.macs for one in found] == [270, 81, 58, 35, 20]
    assert [one.lost for one in found] == pytest.approx([0, 0, 0.05, 0.1, 0.5])


def test_by_energy_each_layer_keeps_at_least_the_share() -> None:
    assert keeping(BOTH, 0.95) == {1: STAYS, 5: LATE[1]}
    assert keeping(BOTH, 0.8) == {1: EARLY[2], 5: LATE[1]}
    assert keeping(BOTH, 0.5) == {1: EARLY[2], 5: LATE[2]}


def test_what_loses_least_for_a_mac_goes_first() -> None:
    """Layer 5 loses 0.04 for 40 MACs, layer 1 then 0.2 for 50, past 0.1 for 20."""
    assert within(BOTH, 200) == {1: STAYS, 5: STAYS}
    assert within(BOTH, 160) == {1: STAYS, 5: LATE[1]}
    assert within(BOTH, 110) == {1: EARLY[2], 5: LATE[1]}
    assert within(BOTH, 50) == {1: EARLY[3], 5: LATE[2]}


def test_of_the_last_layer_what_loses_least_within_the_budget_is_chosen() -> None:
    assert within(BOTH, 145) == {1: EARLY[1], 5: LATE[1]}


@pytest.mark.parametrize("budget", range(50, 201, 5))
def test_the_budget_is_never_exceeded_and_no_layer_could_have_more(budget: int) -> None:
    chosen = within(BOTH, budget)
    macs = sum(one.macs for one in chosen.values())
    assert macs <= budget
    least = min(
        sum(one.lost for one in ones) for ones in product(EARLY, LATE) if sum(one.macs for one in ones) <= budget
    )
    assert sum(one.lost for one in chosen.values()) <= least + 0.1  # of a step, at most


def test_a_budget_below_the_smallest_network_is_refused() -> None:
    with pytest.raises(InputError, match="at least 50 MACs stay with every rank at 1, and 49 are asked for"):
        within(BOTH, 49)
