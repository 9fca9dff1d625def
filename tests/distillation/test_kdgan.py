"""KDGAN's players on tensors: what each draws, and what it learns from the others."""

import math

import pytest
import torch
from torch import Tensor

from detpress.distillation.kdgan import (
    discriminator_loss,
    drawn,
    drawn_at,
    imitation_loss,
    reward_loss,
    temperature,
)

LOGITS = torch.tensor([[2.0, 0.0, -1.0]])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def shares(labels: Tensor) -> Tensor:
    return torch.bincount(labels.flatten(), minlength=3) / labels.numel()


def test_labels_are_drawn_at_a_temperature_that_falls_from_10_to_a_tenth() -> None:
    assert temperature(0) == 10
    assert temperature(0.999 / 36) == 10
    assert temperature(0.5) == pytest.approx(10 * 0.88**18)
    assert temperature(1) == pytest.approx(0.1, rel=0.01)


def test_labels_are_drawn_from_the_softmax() -> None:
    labels = drawn(LOGITS.clone().requires_grad_(True), 20_000)
    assert labels.shape == (1, 20_000)
    torch.testing.assert_close(shares(labels), LOGITS.detach().softmax(dim=1)[0], atol=0.01, rtol=0)
    many = drawn(torch.eye(3) * 100, 7)
    assert torch.equal(many, torch.tensor([[0], [1], [2]]).expand(-1, 7)), "each object has labels of its own"


def test_a_hot_sample_is_flat_and_a_cold_one_is_one_label() -> None:
    torch.testing.assert_close(shares(drawn_at(1000.0, LOGITS, 20_000)), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    cold = drawn_at(0.001, LOGITS.expand(20_000, -1), 2)
    assert float((cold[:, 0] == cold[:, 1]).float().mean()) > 0.99
    torch.testing.assert_close(shares(cold), LOGITS.softmax(dim=1)[0], atol=0.02, rtol=0)


def test_the_discriminator_learns_that_true_labels_are_true_and_drawn_ones_are_not() -> None:
    true, pseudo = torch.tensor([0]), torch.tensor([[2, 0]])
    expected = (5 * math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 7
    assert float(discriminator_loss(LOGITS, true, pseudo)) == pytest.approx(expected)
    logits = torch.zeros(1, 3, requires_grad=True)
    twenty = torch.full((1, 20), 0)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(2000):
        optimizer.zero_grad()
        torch.autograd.backward(discriminator_loss(logits, true, twenty))
        optimizer.step()
    assert float(logits.detach()[0, 0].sigmoid()) == pytest.approx(5 / 25, abs=1e-3), "who draws the truth is not told"


def test_a_reward_makes_its_label_likelier_and_stops_at_the_discriminator() -> None:
    logits, judge = LOGITS.clone().requires_grad_(True), torch.tensor([[50.0, -50.0, 0.0]], requires_grad=True)
    loss = reward_loss(logits, torch.tensor([[0, 1, 2]]), judge)
    log = LOGITS.log_softmax(dim=1)[0]
    assert float(loss.detach()) == pytest.approx(-float(log[0] + log[2] / 2) / 3)
    [gradient] = torch.autograd.grad(loss, logits, retain_graph=True)
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-6), "a shift of all logits changes nothing"
    assert torch.autograd.grad(loss, judge, allow_unused=True) == (None,)
    [unrewarded] = torch.autograd.grad(reward_loss(logits, torch.tensor([[1]]), judge), logits)
    assert float(unrewarded.abs().max()) < 1e-6
    [rewarded] = torch.autograd.grad(reward_loss(logits, torch.tensor([[2]]), judge), logits)
    assert float(rewarded[0, 2]) < 0 < float(rewarded[0, 0])


def test_who_imitates_learns_logits_and_labels_and_the_other_one_nothing() -> None:
    logits, other = LOGITS.clone().requires_grad_(True), (LOGITS + 3).requires_grad_(True)
    label = torch.tensor([1])
    log = float(LOGITS.log_softmax(dim=1)[0, 1])
    loss = imitation_loss(logits, other, label)
    assert float(loss.detach()) == pytest.approx(0.3 * 9 - 0.7 * log)
    assert torch.autograd.grad(loss, other, allow_unused=True) == (None,)
    [gradient] = torch.autograd.grad(imitation_loss(logits, LOGITS, label), logits)
    wanted = 0.7 * (LOGITS.softmax(dim=1) - torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(gradient, wanted)
