"""Soft targets, logit by logit, and whose boxes they are."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.architecture import build_architecture
from detpress.detector.kinds import Yolo
from detpress.distillation.hinton import softened_loss
from detpress.distillation.imitation import score_losses
from detpress.distillation.links import Heads
from detpress.distillation.predictions import Predictions, for_the_student, predictions

TINY = build_architecture("yolov3-tiny", ["cat", "dog"], 96, width=0.0625)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    student = student.clone().requires_grad_()
    [found] = torch.autograd.grad(softened_loss(student, teacher, temperature).sum(), student)
    return found


def test_it_is_the_softmax_loss_of_two_classes_with_zero_mean_logits() -> None:
    ours, theirs, temperature = noise(7), noise(7, seed=1), 3.0
    logits, wanted = (torch.stack([one / 2, -one / 2], dim=1) / temperature for one in (ours, theirs))
    softmax = temperature**2 * functional.cross_entropy(logits, wanted.softmax(dim=1), reduction="none")
    torch.testing.assert_close(softened_loss(ours, theirs, temperature), softmax)


def test_at_a_high_temperature_the_gradient_is_the_difference_of_the_logits_over_n() -> None:
    """(z - v) / (N T^2) for each of N = 2 zero-mean logits z/2 and -z/2, before the factor T^2: (z - v) / 4 of z."""
    ours, theirs = noise(9).double(), noise(9, seed=1).double()
    torch.testing.assert_close(gradient(ours, theirs, 1000.0), (ours - theirs) / 4, rtol=1e-5, atol=1e-7)


def test_a_network_learns_nothing_from_itself() -> None:
    ours = noise(9)
    for temperature in (1.0, 2.0, 20.0):
        assert gradient(ours, ours, temperature).abs().max() < 1e-6


def test_classes_count_by_the_teachers_objectness_and_scales_by_their_weight() -> None:
    def said(seed: int, sure: float) -> Predictions:
        return Predictions(torch.zeros(1, 3, 2, 2, 4), torch.full((1, 3, 2, 2), sure), noise(1, 3, 2, 2, 5, seed=seed))

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs()

    objectness, classes = score_losses([said(0, 1.0), said(1, 0.0)], [said(2, 3.0), said(3, -60.0)], [6, 15], distance)
    torch.testing.assert_close(objectness, torch.tensor(6 * 2.0 + 15 * 60.0))
    torch.testing.assert_close(classes, distance(said(0, 0.0).classes, said(2, 0.0).classes).mean())


def test_what_a_teacher_says_is_found_for_the_students_anchors_places_and_pixels() -> None:
    """The teacher has the student's anchors at twice the input, in another order, and twice as many places."""
    [head] = [layer for layer in TINY.layers[:17] if isinstance(layer, Yolo)]
    turned = Yolo(tuple((2 * w, 2 * h) for w, h in head.anchors[::-1]))
    teacher = replace(TINY, image_size=192, layers=(*TINY.layers[:16], turned))
    raw = torch.full((1, 21, 6, 6), -8.0)
    raw[0, 4, 3, 2] = 5.0  # the surest of the four places that are row 1, column 1 of the student's
    raw[0, 5, 3, 2] = 1.5
    said = predictions(raw, teacher, 0)
    found = for_the_student(said, teacher, TINY, Heads(0, 0), (3, 3))
    assert found.objectness.shape == (1, 3, 3, 3)
    assert float(found.objectness[0, 2, 1, 1]) == 5.0
    assert int((found.objectness > -8).sum()) == 1
    assert found.classes[0, 2, 1, 1].tolist() == [1.5, -8.0]
    assert torch.equal(found.boxes[0, 2, 1, 1], said.boxes[0, 0, 3, 2] / 2)
    same = for_the_student(said, teacher, teacher, Heads(0, 0), (6, 6))
    assert all(torch.equal(getattr(same, part), getattr(said, part)) for part in ("boxes", "objectness", "classes"))
    assert for_the_student(said, teacher, TINY, Heads(0, 0), (12, 12)).boxes.shape == (1, 3, 12, 12, 4)
