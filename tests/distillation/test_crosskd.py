"""CrossKD on tensors and tiny networks: what the teacher's heads say of the student's maps."""

import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.architecture import build_architecture
from detpress.detector.boxes import decode
from detpress.detector.model import new_model
from detpress.distillation.crosskd import aligned, crosskd_loss, quality_focal_loss
from detpress.distillation.predictions import Predictions, predictions

TINY = build_architecture("yolov3-tiny", ["cat", "dog"], 96, width=0.0625)
WEIGHTS = [6.0, 15.0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def said(seed: int) -> list[Predictions]:
    raw = [noise(2, 21, 3, 3, seed=seed), noise(2, 21, 6, 6, seed=seed + 1)]
    return [predictions(one, TINY, place) for place, one in enumerate(raw)]


def with_gradient(found: list[Predictions]) -> list[Predictions]:
    return [
        Predictions(*(part.detach().requires_grad_() for part in (one.boxes, one.objectness, one.classes)))
        for one in found
    ]


def test_predictions_are_what_the_detector_decodes() -> None:
    raw = [noise(2, 21, 3, 3), noise(2, 21, 6, 6, seed=1)]
    boxes, scores = decode(raw, TINY)
    ours = [predictions(one, TINY, place) for place, one in enumerate(raw)]
    assert torch.equal(torch.cat([one.boxes.reshape(2, -1, 4) for one in ours], dim=1), boxes)
    best = torch.cat([one.scores.reshape(2, -1) for one in ours], dim=1)
    torch.testing.assert_close(best, scores.amax(dim=2))


def test_an_aligned_map_has_the_teachers_mean_and_deviation_and_constant_channels_stay_constant() -> None:
    student, teacher = noise(3, 4, 5, 5) * 7 + 2, noise(3, 4, 5, 5, seed=1) - 3
    student[:, 2] = 0.5
    found = aligned(student, teacher)
    torch.testing.assert_close(found.mean((0, 2, 3)), teacher.mean((0, 2, 3)))
    kept = [0, 1, 3]
    torch.testing.assert_close(found.std((0, 2, 3))[kept], teacher.std((0, 2, 3))[kept])
    torch.testing.assert_close(found[:, 2], teacher[:, 2].mean().expand(3, 5, 5))
    torch.testing.assert_close(aligned(teacher, teacher), teacher)


def test_the_focal_loss_is_cross_entropy_times_the_distance_of_probabilities() -> None:
    loss = quality_focal_loss(torch.tensor([0.0, 2.0]), torch.tensor([20.0, 2.0]))
    torch.testing.assert_close(loss, torch.tensor([0.5 * torch.tensor(2.0).log(), 0.0]))


def test_a_network_learns_nothing_from_itself() -> None:
    teacher = said(0)
    ours = with_gradient(teacher)
    loss = crosskd_loss(ours, teacher, WEIGHTS)
    (loss.boxes + loss.objectness + loss.classes).backward()
    for part in (loss.boxes, loss.objectness, loss.classes):
        assert abs(part.item()) < 1e-6
    for one in ours:
        for part in (one.boxes, one.objectness, one.classes):
            assert part.grad is not None
            assert part.grad.abs().max() < 1e-6


def test_boxes_count_by_the_teachers_score_and_scales_by_their_weight() -> None:
    teacher, ours = said(0), said(2)
    loss = crosskd_loss(ours, teacher, WEIGHTS)
    silent = [replace(one, objectness=torch.full_like(one.objectness, -40.0)) for one in teacher]
    quiet = crosskd_loss(ours, silent, WEIGHTS)
    assert float(loss.boxes) > 0.1 > 1e-6 > float(quiet.boxes)
    assert float(loss.classes) > 0.01 > 1e-6 > float(quiet.classes)
    coarse = crosskd_loss(ours, teacher, [6.0, 0.0]).objectness
    torch.testing.assert_close(coarse, 6 * quality_focal_loss(ours[0].objectness, teacher[0].objectness).mean())


def test_gradients_pass_through_the_teachers_head_and_stop_at_its_weights() -> None:
    teacher = copy.deepcopy(new_model(TINY, seed=0).network).eval().requires_grad_(False)
    student = noise(2, 16, 3, 3).requires_grad_()
    x = aligned(student, noise(2, 16, 3, 3, seed=1))
    for layer in (14, 15):
        x = teacher.layers[layer](x)
    functional.mse_loss(x, torch.zeros_like(x)).backward()
    assert student.grad is not None
    assert student.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())
