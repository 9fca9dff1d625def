"""The range of what a leaky ReLU takes loses least behind it, held against every candidate's real error."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from detpress.detector.input_scale import InputScale
from detpress.encodings.before_leaky import CANDIDATES, BeforeLeaky


def seen(*batches: Tensor) -> BeforeLeaky:
    together = torch.cat(batches)
    values = BeforeLeaky(float(together.min()), float(together.max()))
    for batch in batches:
        values.see(batch)
    return values


def error(x: Tensor, low: float, high: float) -> float:
    rounded = InputScale.of_range(low, high).rounded(x)
    return float((leaky_relu(rounded, 0.1) - leaky_relu(x, 0.1)).square().mean())


@pytest.mark.parametrize(("mean", "deviation"), [(-1.0, 1.0), (-4.0, 2.0), (0.5, 1.0)])
def test_no_other_candidate_has_a_smaller_error(mean: float, deviation: float) -> None:
    x = mean + deviation * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    values = seen(x[:40_000], x[40_000:])
    low, high = values.best_range()
    assert high == values.high
    errors = [error(x, values.low * n / CANDIDATES, high) for n in range(1, CANDIDATES + 1)]
    assert error(x, low, high) <= 1.02 * min(errors)
    assert error(x, low, high) < 0.9 * error(x, values.low, high), "the tail is worth cutting off"


def test_what_is_never_negative_keeps_its_range() -> None:
    assert seen(torch.linspace(0.5, 3, 100)).best_range() == (0, 3)
    assert seen(torch.zeros(4)).best_range() == (0, 0)
