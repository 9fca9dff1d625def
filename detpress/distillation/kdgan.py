"""KDGAN: a student, a copy of its teacher and a discriminator learn from each other (the card: plugin `distill.kdgan`).

For an image x and a label y, with C the student's softmax, T the copy's, and D(x, y) a sigmoid:

    D   learns that true labels are true and that labels drawn from C and from T are not
    T   is rewarded by D for the labels that it draws, and imitates C a little
    C   is rewarded by D for the labels that it draws, and imitates T
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

from detpress.detector.architecture import Architecture, size_text
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.distillation.links import Heads, head_input, head_layers
from detpress.distillation.options import KdganOptions
from detpress.distillation.taught import Taught
from detpress.errors import InputError
from detpress.training.loss import responsible_boxes
from detpress.training.objective import Terms, TrainingStart, TrainingStep
from detpress.training.teacher import Teacher

TRUE_LABELS, DRAWN_LABELS = 5, 20  # of an object, that D sees in a step; T and C draw as many as both together
HOTTEST, COOLEST, COOLING = 10.0, 0.1, 0.88  # temperature of the labels that C draws, and the factor of its steps
SOFT = 0.3  # share of the teacher's logits in an imitation; the rest is the true label's


def temperature(share: float) -> float:
    """Of the labels that the student draws after this share of the training, 0 to 1: from 10 in 36 steps to 0.1."""
    steps = int(math.log(COOLEST / HOTTEST) / math.log(COOLING))
    return HOTTEST * COOLING ** int(share * steps)


def drawn(logits: Tensor, labels: int) -> Tensor:
    """That many labels of each object, drawn with replacement from the softmax of logits (P, C): int64 (P, labels)."""
    every = logits.detach().float()[:, None].expand(-1, labels, -1)
    return (every + gumbel_noise(every)).argmax(dim=2)


def drawn_at(temperature: float, logits: Tensor, labels: int) -> Tensor:
    """The same from one sample of each object's Gumbel-softmax: flat where it is hot, one label where it is cold."""
    logits = logits.detach().float()
    return drawn((logits + gumbel_noise(logits)) / temperature, labels)


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of this shape, from the global generator: added to logits, it draws from their softmax."""
    return -torch.empty_like(like, memory_format=torch.contiguous_format).exponential_().log()


def discriminator_loss(logits: Tensor, labels: Tensor, pseudo: Tensor) -> Tensor:
    """Cross-entropy of D's logits (P, C) at true labels (P,), each `TRUE_LABELS` times, and at pseudo-labels (P, L).

    The mean over all of them; a pseudo-label counts as not true, also where it is.
    """
    true = labels[:, None].expand(-1, TRUE_LABELS)
    chosen = logits.float().gather(1, torch.cat([true, pseudo], dim=1))
    wanted = torch.cat([torch.ones_like(true), torch.zeros_like(pseudo)], dim=1).float()
    return functional.binary_cross_entropy_with_logits(chosen, wanted)


def reward_loss(logits: Tensor, labels: Tensor, discriminator: Tensor) -> Tensor:
    """REINFORCE: minus the mean of log softmax(logits) at the labels (P, L) times D's probability that they are true.

    logits: (P, C), of who drew the labels. discriminator: (P, C), D's logits; no gradient reaches it.
    """
    reward = discriminator.detach().float().sigmoid().gather(1, labels)
    return -(logits.float().log_softmax(dim=1).gather(1, labels) * reward).mean()


def imitation_loss(logits: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """A share of the mean squared difference of logits (P, C), the rest cross-entropy with the true labels (P,).

    No gradient reaches `other`.
    """
    soft = functional.mse_loss(logits.float(), other.detach().float())
    return SOFT * soft + (1 - SOFT) * functional.cross_entropy(logits.float(), labels)


@dataclass(frozen=True)
class Said:
    """Class logits (P, C) of boxes that learn an object, as the three players give them, and its true labels (P,)."""

    student: Tensor
    teacher: Tensor
    discriminator: Tensor
    labels: Tensor


class Kdgan(Taught):
    """KDGAN's three players, beside the detection loss."""

    Config = KdganOptions
    config: KdganOptions

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        if teacher.form not in (Form.DENSE, Form.MASKED):
            raise InputError(f"teacher: is {teacher.form}; expected dense or masked, since a copy of its heads learns")
        if len(student.classes) < 2:
            raise InputError(f"teacher: knows the class {student.classes[0]} alone; expected two, to draw labels from")
        super().pair(student, teacher)
        for heads in self.heads:
            _check_boxes(student, teacher.architecture, heads)
        self.taken = [f"layers.{head_input(teacher.architecture, heads.teacher)}" for heads in self.heads]
        return self.taken

    def prepare(self, start: TrainingStart) -> None:
        super().prepare(start)
        self.learner, self.discriminator = (
            nn.ModuleList(copied_head(self.teacher, heads.teacher) for heads in self.heads) for _ in range(2)
        )

    def train(self, mode: bool = True) -> Self:
        """BatchNorm in the copies keeps the teacher's statistics."""
        super().train(mode)
        for networks in self.children():
            networks.eval()
        return self

    def optimizer(self) -> Optimizer:
        rates = {
            self.learner: self.config.teacher_learning_rate,
            self.discriminator: self.config.discriminator_learning_rate,
        }
        return Adam([{"params": networks.parameters(), "lr": rate} for networks, rate in rates.items()])

    def own_terms(self, step: TrainingStep) -> Terms:
        said = self._of_objects(step)
        if not len(said.labels):
            return {}
        alpha, gamma = self.config.alpha, self.config.gamma
        of_student, of_teacher = (
            discriminator_loss(said.discriminator, said.labels, drawn(logits, DRAWN_LABELS))
            for logits in (said.student, said.teacher)
        )
        rewarded = reward_loss(said.teacher, drawn(said.teacher, TRUE_LABELS + DRAWN_LABELS), said.discriminator)
        imitated = imitation_loss(said.teacher, said.student, said.labels)
        return {
            "kdgan_discriminator": (1 - alpha) * of_student + alpha * of_teacher,
            "kdgan_teacher": alpha * rewarded + gamma * imitated,
        }

    def terms(self, step: TrainingStep) -> Terms:
        said = self._of_objects(step)
        if not len(said.labels):
            return {}
        labels = drawn_at(temperature(step.number / step.steps), said.student, TRUE_LABELS + DRAWN_LABELS)
        rewarded = (1 - self.config.alpha) * reward_loss(said.student, labels, said.discriminator)
        imitated = self.config.beta * imitation_loss(said.student, said.teacher, said.labels)
        return {"kdgan_reward": self.config.weight * rewarded, "kdgan_imitation": self.config.weight * imitated}

    def _of_objects(self, step: TrainingStep) -> Said:
        """By the scales that student and teacher share."""
        every = responsible_boxes(step.maps, step.targets, self.student)
        boxes = [every[heads.student] for heads in self.heads]
        _, outputs = self.taught(step.images)
        taken = [outputs[name] for name in self.taken]

        def classes(raw_maps: Iterable[Tensor]) -> Tensor:
            apart = (raw.reshape(len(raw), -1, 5 + len(self.student.classes), *raw.shape[2:]) for raw in raw_maps)
            return torch.cat([mine.of(raw)[:, 5:] for mine, raw in zip(boxes, apart, strict=True)])

        return Said(
            classes(step.maps[heads.student] for heads in self.heads),
            classes(head(x) for head, x in zip(self.learner, taken, strict=True)),
            classes(head(x) for head, x in zip(self.discriminator, taken, strict=True)),
            torch.cat([mine.objects.label for mine in boxes]),
        )


def copied_head(teacher: Teacher, place: int) -> nn.Sequential:
    """A copy of the last two convolutions of a head, which learns."""
    layers = (teacher.network.get_submodule(f"layers.{i}") for i in head_layers(teacher.architecture, place))
    return nn.Sequential(*(copy.deepcopy(layer).requires_grad_(True) for layer in layers))


def _check_boxes(student: Architecture, teacher: Architecture, heads: Heads) -> None:
    """Raises InputError unless a box of the student's scale is the same box of the teacher's."""
    if student.image_size != teacher.image_size:
        seen, expected = size_text(teacher.image_size), size_text(student.image_size)
        raise InputError(f"teacher: sees {seen} pixels; expected {expected}, as the student does")
    mine, theirs = student.yolo_layers[heads.student].anchors, teacher.yolo_layers[heads.teacher].anchors
    if mine != theirs:
        said, expected = (", ".join(f"{w:g}x{h:g}" for w, h in anchors) for anchors in (theirs, mine))
        raise InputError(f"teacher: has the anchors {said} where the student has {expected}; expected the same")
