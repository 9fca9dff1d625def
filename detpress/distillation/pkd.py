"""PKD: maps are compared by their correlation (the card is that of the plugin `distill.pkd`)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.distillation.options import PkdOptions
from detpress.distillation.standardised import moments, standardised
from detpress.distillation.taught import Linked, resized
from detpress.training.objective import Terms, TrainingStep


def pkd_loss(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Pearson's correlation of the two maps of a channel, the mean over channels: float32 scalar.

    Both maps, float32 (N, C, H, W), are standardised by channel over images and places; half of their squared
    difference is averaged, which is 1 - r. A channel that is constant in either map, as a masked one, has no
    correlation and is left out. weight: (N, H, W), of each place; all count alike by default.
    """
    ours, theirs = moments(student), moments(teacher)
    counted = ours.varies & theirs.varies
    distance = (standardised(student, ours) - standardised(teacher, theirs)).square() / 2
    by_place = (distance * counted).sum(dim=1) / counted.sum().clamp(min=1)
    if weight is None:
        return by_place.mean()
    return (by_place * weight).sum() / weight.sum().clamp(min=1e-6)


def best_scores(raw: Tensor, classes: int) -> Tensor:
    """The highest score of any box and class at each place of a raw map (N, A * (5 + C), H, W): (N, H, W)."""
    n, _, height, width = raw.shape
    boxes = raw.float().reshape(n, -1, 5 + classes, height, width).sigmoid()
    return (boxes[:, :, 4] * boxes[:, :, 5:].amax(dim=2)).amax(dim=1)


def scores_at(raw_maps: Sequence[Tensor], like: Tensor, classes: int) -> Tensor:
    """The best scores (N, H, W) at the places of maps (N, ?, H, W), of the raw map whose size is nearest to theirs."""
    nearest = min(raw_maps, key=lambda raw: abs(math.log(raw.shape[-1] / like.shape[-1])))
    return resized(best_scores(nearest, classes)[:, None], like)[:, 0]


class Pkd(Linked):
    """PKD, beside the detection loss."""

    Config = PkdOptions
    config: PkdOptions

    def terms(self, step: TrainingStep) -> Terms:
        raw_maps, outputs = self.taught(step.images)
        maps = self.compared(step, outputs)
        return {"pkd": self.config.weight * pkd_of(maps, raw_maps if self.config.score_weighted else (), self.student)}


def pkd_of(maps: Sequence[tuple[Tensor, Tensor]], raw_maps: Sequence[Tensor], student: Architecture) -> Tensor:
    """The sum over the links. raw_maps: the teacher's, where places count by its scores; none where all count alike."""
    losses = [
        pkd_loss(ours, theirs, scores_at(raw_maps, theirs, len(student.classes)) if raw_maps else None)
        for ours, theirs in maps
    ]
    return torch.stack(losses).sum()
