"""Chen's distillation of detectors: weighted soft scores, bounded boxes, hints (card: the plugin `distill.chen`)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.distillation.imitation import score_losses
from detpress.distillation.options import ChenOptions
from detpress.distillation.predictions import Predictions
from detpress.distillation.taught import Linked, Taught
from detpress.training.detection import Detection
from detpress.training.loss import encoded, given, responsible_boxes
from detpress.training.objective import Terms, TrainingStart, TrainingStep


def weighted_soft_loss(student: Tensor, teacher: Tensor, background_weight: float) -> Tensor:
    """Cross-entropy to the teacher's probability, "no" weighted by `background_weight` and "yes" by 1, by logit.

    As published, its least is not where both say the same unless the weights are equal: it leans to "no".
    """
    wanted = teacher.sigmoid()
    no = background_weight * (1 - wanted) * functional.logsigmoid(-student)
    return -(wanted * functional.logsigmoid(student) + no)


def bounded_loss(student: Tensor, teacher: Tensor, wanted: Tensor, margin: float) -> Tensor:
    """Boxes (P, 4) in the same coding -> (P,): the squared error of the student's.

    0 where it is smaller than the teacher's by the margin; towards what is wanted and not towards the teacher.
    """
    ours, theirs = ((boxes - wanted).square().sum(dim=1) for boxes in (student, teacher))
    return torch.where(ours + margin > theirs, ours, 0.0)


class Chen(Linked):
    """The detection loss of which scores and boxes are taught, and hints."""

    Config = ChenOptions
    config: ChenOptions
    replaces = Detection.TERMS
    always_adapted = True

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        Taught.pair(self, student, teacher)
        return super().pair(student, teacher)

    def prepare(self, start: TrainingStart) -> None:
        super().prepare(start)
        self.detection = Detection()
        self.detection.prepare(start)

    def terms(self, step: TrainingStep) -> Terms:
        config, training = self.config, self.student_training
        hard = self.detection.terms(step)
        raw_maps, outputs = self.taught(step.images)
        ours, theirs = self.said(step, raw_maps)
        weighted = partial(weighted_soft_loss, background_weight=config.background_weight)
        objectness, _ = score_losses(ours, theirs, self.objectness_weights, weighted)
        _, classes = score_losses(
            ours, theirs, self.objectness_weights, partial(weighted_soft_loss, background_weight=1.0)
        )
        distance = functional.mse_loss if config.hint == "l2" else functional.l1_loss
        hints = [distance(own, other) for own, other in self.compared(step, outputs)]
        return {
            "box": hard["box"],
            "objectness": config.mu * hard["objectness"],
            "classes": config.mu * hard["classes"],
            "soft_objectness": (1 - config.mu) * objectness,
            "soft_classes": (1 - config.mu) * training.class_weight * classes,
            "bounded": config.nu * training.box_weight * self.bounded(step, theirs),
            "hint": config.hint_weight * torch.stack(hints).sum(),
        }

    def bounded(self, step: TrainingStep, teacher: Sequence[Predictions]) -> Tensor:
        """The mean bounded loss of the boxes that are responsible for an object; 0 where there is none."""
        responsible = responsible_boxes(step.maps, step.targets, self.student)
        losses = []
        for heads, theirs in zip(self.heads, teacher, strict=True):
            boxes, raw = responsible[heads.student], step.maps[heads.student]
            layer, stride = self.student.yolo_layers[heads.student], self.student.stride(raw)
            said = given(layer, boxes.of(layer.by_anchor(raw)))
            cell = torch.stack([boxes.column, boxes.row], dim=1)
            taught = theirs.boxes[boxes.objects.image, boxes.anchor, boxes.row, boxes.column]
            taught, wanted = (encoded(layer, one, cell, boxes.size, stride) for one in (taught, boxes.objects.boxes))
            losses.append(bounded_loss(said, taught, wanted, self.config.margin))
        every = torch.cat(losses)
        return every.sum() / max(1, len(every))
