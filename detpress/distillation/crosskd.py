"""CrossKD: the teacher's heads read the student's maps (the card is that of the plugin `distill.crosskd`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.distillation.imitation import score_losses, weighted_mean
from detpress.distillation.options import CrossKdOptions, DetectorOptions
from detpress.distillation.pkd import pkd_of
from detpress.distillation.predictions import Predictions, predictions
from detpress.distillation.standardised import moments, standardised
from detpress.distillation.taught import Linked, Taught, check_way_back, through_head
from detpress.training.objective import Terms, TrainingStep


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map (N, C, H, W) with the teacher's mean and deviation in each channel."""
    theirs = moments(teacher)
    return standardised(student, moments(student)) * theirs.deviation + theirs.mean


def quality_focal_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Of logits of any shape, element by element: cross-entropy to the teacher's probability, times the distance of
    the two probabilities. It is 0 where they are the same."""
    wanted = teacher.sigmoid()
    distance = (student.sigmoid() - wanted).abs()
    return functional.binary_cross_entropy_with_logits(student, wanted, reduction="none") * distance


@dataclass(frozen=True)
class CrossLoss:
    """Float32 scalars."""

    boxes: Tensor
    objectness: Tensor
    classes: Tensor


def crosskd_loss(
    crossed: Sequence[Predictions], teacher: Sequence[Predictions], objectness_weights: Sequence[float]
) -> CrossLoss:
    """What the teacher's heads say of the student's maps against what they say of the teacher's own.

    One element a scale, of the same places and anchors. Scores are averaged as `score_losses` says, boxes by the
    teacher's score.
    """
    objectness, classes = score_losses(crossed, teacher, objectness_weights, quality_focal_loss)
    boxes = [
        generalized_box_iou_loss(ours.boxes, theirs.boxes).flatten()
        for ours, theirs in zip(crossed, teacher, strict=True)
    ]
    return CrossLoss(weighted_mean(boxes, [theirs.scores.flatten() for theirs in teacher]), objectness, classes)


class CrossKd(Linked):
    """CrossKD, beside the detection loss."""

    Config = CrossKdOptions
    config: CrossKdOptions

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        check_way_back(teacher)
        Taught.pair(self, student, teacher)
        return super().pair(student, teacher)

    def terms(self, step: TrainingStep) -> Terms:
        raw_maps, outputs = self.taught(step.images)
        return self.crossed(self.compared(step, outputs), raw_maps)

    def crossed(self, maps: Sequence[tuple[Tensor, Tensor]], raw_maps: Sequence[Tensor]) -> Terms:
        """maps: what each head takes, the student's and the teacher's. raw_maps: the teacher's."""
        architecture = self.teacher.architecture
        ours, theirs = [], []
        for (own, other), heads in zip(maps, self.heads, strict=True):
            crossed = through_head(self.teacher, heads.teacher, aligned(own, other))
            ours.append(predictions(crossed, architecture, heads.teacher))
            theirs.append(predictions(raw_maps[heads.teacher], architecture, heads.teacher))
        training, weight = self.student_training, self.config.weight
        loss = crosskd_loss(ours, theirs, self.objectness_weights)
        return {
            "cross_box": weight * training.box_weight * loss.boxes,
            "cross_objectness": weight * loss.objectness,
            "cross_classes": weight * training.class_weight * loss.classes,
        }


class Detector(CrossKd):
    """PKD and CrossKD, beside the detection loss."""

    Config = DetectorOptions
    config: DetectorOptions

    def terms(self, step: TrainingStep) -> Terms:
        raw_maps, outputs = self.taught(step.images)
        maps = self.compared(step, outputs)
        pkd = pkd_of(maps, raw_maps if self.config.score_weighted else (), self.student)
        return {"pkd": self.config.pkd_weight * pkd, **self.crossed(maps, raw_maps)}
