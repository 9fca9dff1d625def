"""Adversarial distillation: a critic at each head (the card is that of the plugin `distill.gan`)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.distillation.critics import clip_weights, critic_loss, new_critic
from detpress.distillation.options import GanOptions
from detpress.distillation.taught import Linked, Taught, check_way_back, through_head
from detpress.errors import InputError
from detpress.training.loss import Targets, yolo_loss
from detpress.training.objective import Terms, TrainingStart, TrainingStep

BETAS = (0.5, 0.999)  # of the critics' Adam


class Gan(Linked):
    """A critic at each head, beside the detection loss."""

    Config = GanOptions
    config: GanOptions

    def pair(self, student: Architecture, teacher: Model) -> Sequence[str]:
        check_way_back(teacher)
        Taught.pair(self, student, teacher)
        found, heads = len(self.heads), len(teacher.architecture.heads)
        if found < heads:
            raise InputError(
                f"teacher: has {heads} heads, and the student has the strides of {found}; expected all, since the "
                "student's maps go through them"
            )
        return super().pair(student, teacher)

    def prepare(self, start: TrainingStart) -> None:
        super().prepare(start)
        maps = [self.teacher.architecture.output_maps[link.teacher] for link in self.links]
        self.critics = nn.ModuleList(new_critic(shape.channels, shape.height, shape.width) for shape in maps)
        clip_weights(self.critics, self.config.clip)

    def optimizer(self) -> Optimizer:
        """The critics'; what gives the student's maps the teacher's channels learns with the student."""
        optimizer = Adam(self.critics.parameters(), self.config.learning_rate, BETAS)
        optimizer.register_step_post_hook(lambda *stepped: clip_weights(self.critics, self.config.clip))
        return optimizer

    def own_terms(self, step: TrainingStep) -> Terms:
        with torch.no_grad():
            maps = self.compared(step, self.taught(step.images)[1])
        losses = [
            critic_loss(critic(real), critic(fake)) for critic, (fake, real) in zip(self.critics, maps, strict=True)
        ]
        return {"gan_critic": torch.stack(losses).sum()}

    def terms(self, step: TrainingStep) -> Terms:
        maps = [fake for fake, _ in self.compared(step, self.taught(step.images)[1])]
        said = [critic(fake).mean() for critic, fake in zip(self.critics, maps, strict=True)]
        architecture = self.teacher.architecture
        raw = {
            pair.teacher: through_head(self.teacher, pair.teacher, fake)
            for pair, fake in zip(self.heads, maps, strict=True)
        }
        loss = yolo_loss(
            [raw[place] for place in sorted(raw)],
            at_size(step.targets, architecture, step.images),
            architecture,
            self.student_training,
        )
        return {
            "gan": self.config.weight * torch.stack(said).sum(),
            "gan_heads": self.config.head_weight * loss.total,
        }


def at_size(targets: Targets, architecture: Architecture, images: Tensor) -> Targets:
    """Objects of images (N, 3, H, W) in pixels of the network's input."""
    height, width = architecture.input_size
    factors = [width / images.shape[-1], height / images.shape[-2]]
    return replace(targets, boxes=targets.boxes * targets.boxes.new_tensor(factors * 2))
