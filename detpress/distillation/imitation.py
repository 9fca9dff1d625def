"""What a student says is drawn to what its teacher says of the same boxes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from detpress.distillation.predictions import Predictions

ByLogit = Callable[[Tensor, Tensor], Tensor]  # the student's logits and the teacher's, (...) each -> losses (...)


def score_losses(
    student: Sequence[Predictions], teacher: Sequence[Predictions], objectness_weights: Sequence[float], loss: ByLogit
) -> tuple[Tensor, Tensor]:
    """Of objectness and of classes, float32 scalars, averaged as the detection loss is.

    One element a scale, of the same places and anchors. Objectness: the mean over all boxes of a scale, each scale with
    its weight. Classes: the mean over boxes by the teacher's objectness, which stands for those that are responsible
    for an object; what a class is where there is nothing, no network has learnt.
    """
    objectness, classes, sure = [], [], []
    for ours, theirs, weight in zip(student, teacher, objectness_weights, strict=True):
        objectness.append(weight * loss(ours.objectness, theirs.objectness).mean())
        classes.append(loss(ours.classes, theirs.classes).mean(dim=-1).flatten())
        sure.append(theirs.objectness.sigmoid().flatten())
    return torch.stack(objectness).sum(), weighted_mean(classes, sure)


def weighted_mean(losses: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Over all scales, (M,) each; weights of less than one box in all count as one."""
    weight = torch.cat(weights)
    return (torch.cat(losses) * weight).sum() / weight.sum().clamp(min=1)
