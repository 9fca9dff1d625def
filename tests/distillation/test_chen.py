"""Chen's losses: the background counts more, and a box better than the teacher's is let alone."""

import torch
from torch import Tensor
from torch.nn import functional

from detpress.distillation.chen import bounded_loss, weighted_soft_loss

WANTED = torch.tensor([[0.5, 0.5, 0.0, 0.0]])


def box(error: float) -> Tensor:
    return WANTED + torch.tensor([[error, 0.0, 0.0, 0.0]])


def test_a_student_that_is_better_than_the_teacher_by_the_margin_has_no_loss() -> None:
    assert float(bounded_loss(box(0.1), box(0.3), WANTED, margin=0.0)) == 0
    assert float(bounded_loss(box(0.1), box(0.1), WANTED, margin=0.0)) == 0
    assert float(bounded_loss(box(0.1), box(0.11), WANTED, margin=0.01)) > 0


def test_a_student_that_is_worse_learns_what_is_wanted_and_not_the_teacher() -> None:
    student = box(0.3).requires_grad_()
    loss = bounded_loss(student, box(-0.1), WANTED, margin=0.0)
    torch.testing.assert_close(loss, torch.tensor([0.09]))
    loss.sum().backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, 2 * (student.detach() - WANTED))


def test_each_box_is_judged_by_itself() -> None:
    student, teacher = torch.cat([box(0.1), box(0.3)]), torch.cat([box(0.2), box(0.2)])
    found = bounded_loss(student, teacher, WANTED.expand(2, 4), margin=0.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.09]))


def test_the_background_is_weighted_and_at_one_it_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 9, generator=generator)
    plain = functional.binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="none")
    torch.testing.assert_close(weighted_soft_loss(ours, theirs, 1.0), plain)
    sure = torch.tensor([-40.0, 40.0])  # background, and an object
    logits = torch.zeros(2)
    torch.testing.assert_close(
        weighted_soft_loss(logits, sure, 1.5), torch.tensor([1.5, 1.0]) * torch.tensor(2.0).log()
    )
