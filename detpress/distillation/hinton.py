"""Hinton's distillation: soft targets at a temperature (the card is that of the plugin `distill.hinton`)."""

from functools import partial

from torch import Tensor
from torch.nn import functional

from detpress.distillation.imitation import score_losses
from detpress.distillation.options import HintonOptions
from detpress.distillation.taught import Taught
from detpress.training.objective import Terms, TrainingStep


def softened_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the cross-entropy of sigmoid(z / T) to sigmoid(v / T), logit by logit: any shape, the same comes out.

    A logistic output is a softmax over the two logits z/2 and -z/2, whose mean is zero; of these the gradient at high T
    is T^2 (z/2 - v/2) / (2 T^2), as published for N = 2 classes, so of z it is (z - v) / 4.
    """
    wanted = (teacher / temperature).sigmoid()
    loss = functional.binary_cross_entropy_with_logits(student / temperature, wanted, reduction="none")
    return temperature**2 * loss


class Hinton(Taught):
    """Soft targets, beside the detection loss."""

    Config = HintonOptions
    config: HintonOptions

    def terms(self, step: TrainingStep) -> Terms:
        raw_maps, _ = self.taught(step.images)
        student, teacher = self.said(step, raw_maps)
        loss = partial(softened_loss, temperature=self.config.temperature)
        objectness, classes = score_losses(student, teacher, self.objectness_weights, loss)
        return {
            "soft_objectness": self.config.weight * objectness,
            "soft_classes": self.config.weight * self.student_training.class_weight * classes,
        }
