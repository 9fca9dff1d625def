"""The search for a strength, where what comes out of each is known."""

import pytest

from detpress.pruning.strength_search import Trial, best_trial, next_strength


def search(reaches: float, goal: float, trials: int) -> list[Trial]:
    """Where a share of s / (s + reaches) is removed at strength s."""
    tried: list[Trial] = []
    for _ in range(trials):
        strength = next_strength(tried, goal)
        tried.append(Trial(strength, strength / (strength + reaches)))
    return tried


@pytest.mark.parametrize("reaches", [0.01, 1.0, 40.0])
def test_it_comes_close_to_the_goal_from_above(reaches: float) -> None:
    best = best_trial(search(reaches, goal=0.75, trials=12), 0.75)
    assert 0.75 <= best.removed < 0.77
    assert best.strength == pytest.approx(3 * reaches, rel=0.1)


def test_strengths_grow_until_one_is_enough_then_those_between_are_tried() -> None:
    tried = search(reaches=2.0, goal=0.75, trials=4)
    assert [trial.strength for trial in tried] == pytest.approx([1, 3, 9, 27**0.5])


def test_where_nothing_reaches_the_goal_it_is_what_removes_most() -> None:
    tried = [Trial(1.0, 0.2), Trial(3.0, 0.5), Trial(9.0, 0.4)]
    assert best_trial(tried, 0.9) == Trial(3.0, 0.5)
