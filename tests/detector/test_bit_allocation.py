"""Bits by layer under a budget: what the integer program finds is the best of all choices."""

import random
from itertools import product

import pytest

from detpress.encodings.bit_allocation import cheapest_bits


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_best_of_all_choices(seed: int) -> None:
    """Held against every one of 3^7 choices, at a scale of costs as raw maps' noises have it, some of them negative."""
    draw = random.Random(seed)
    layers = range(0, 14, 2)
    sizes = {i: draw.randint(1, 2000) for i in layers}
    costs = {i: {bits: 1e-4 * draw.gauss(2**-bits, 0.05) for bits in (2, 4, 8)} for i in layers}
    budget = draw.uniform(2.5, 7.5)

    def total(chosen: dict[int, int]) -> float:
        return sum(costs[i][bits] for i, bits in chosen.items())

    def fits(chosen: dict[int, int]) -> bool:
        return sum(sizes[i] * bits for i, bits in chosen.items()) <= budget * sum(sizes.values())

    every = [dict(zip(layers, bits, strict=True)) for bits in product((2, 4, 8), repeat=len(layers))]
    best = min((chosen for chosen in every if fits(chosen)), key=total)
    assert cheapest_bits(costs, sizes, budget) == best


def test_the_budget_is_met_to_the_weight() -> None:
    """Of equal layers, half may have 8 bits at a mean of 6: those that gain most by it."""
    costs = {i: {4: gain, 8: 0.0} for i, gain in enumerate([1.0, 3.0, 2.0, 4.0])}
    assert cheapest_bits(costs, dict.fromkeys(costs, 5), 6.0) == {0: 4, 1: 8, 2: 4, 3: 8}
    with pytest.raises(ValueError, match=r"^no layer may have fewer bits"):
        cheapest_bits(costs, dict.fromkeys(costs, 5), 3.9)
