"""FitNets: hints first, soft targets afterwards (the card is that of the plugin `distill.fitnets`)."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution
from detpress.detector.kinds.activation import ACTIVATIONS
from detpress.distillation.hinton import softened_loss
from detpress.distillation.imitation import score_losses
from detpress.distillation.links import Link, middle_links
from detpress.distillation.options import FitnetsOptions
from detpress.distillation.taught import Linked, Taught
from detpress.training.detection import Detection
from detpress.training.objective import Terms, TrainingStep


def hint_loss(guided: Tensor, hint: Tensor) -> Tensor:
    """Half the squared difference of two maps (N, C, H, W), summed over channels, the mean over images and places."""
    return (guided - hint).square().sum(dim=1).mean() / 2


class Hint(Linked):
    """Stage 1: the guided layers learn the teacher's hints, and nothing else is learnt."""

    config: FitnetsOptions
    replaces = Detection.TERMS

    def default_links(self, student: Architecture, teacher: Architecture) -> Sequence[Link]:
        return middle_links(student, teacher)

    def adapter(self, link: Link) -> nn.Module:
        """Followed by the non-linearity of the teacher's layer, as published."""
        adapter = super().adapter(link)
        layer = self.teacher.architecture.layers[link.teacher]
        if isinstance(adapter, nn.Identity) or not isinstance(layer, Convolution) or layer.activation == "linear":
            return adapter
        return nn.Sequential(adapter, ACTIVATIONS[layer.activation]())

    def terms(self, step: TrainingStep) -> Terms:
        _, outputs = self.taught(step.images)
        losses = [hint_loss(guided, hint) for guided, hint in self.compared(step, outputs)]
        return {"hint": torch.stack(losses).sum()}

    def only_guided(self, hinted: nn.Module, before: nn.Module) -> nn.Module:
        """`hinted` with every layer behind the guided ones as `before` has it.

        They have learnt nothing, but BatchNorm's statistics there have followed.
        """
        last = max(link.student for link in self.links)
        behind = {
            name: tensor for name, tensor in before.state_dict().items() if int(name.split(".")[1]) > last
        }  # of `layers.62.norm.bias`
        network = copy.deepcopy(hinted)
        network.load_state_dict(behind, strict=False)
        return network


class FadingTargets(Taught):
    """Stage 2: soft targets whose weight falls linearly from the first step to the last, beside the detection loss."""

    config: FitnetsOptions

    def weight(self, number: int, steps: int) -> float:
        """Of the step with this number, from 0."""
        config = self.config
        return config.first_weight + (config.last_weight - config.first_weight) * number / max(1, steps - 1)

    def terms(self, step: TrainingStep) -> Terms:
        raw_maps, _ = self.taught(step.images)
        student, teacher = self.said(step, raw_maps)
        loss = partial(softened_loss, temperature=self.config.temperature)
        objectness, classes = score_losses(student, teacher, self.objectness_weights, loss)
        weight = self.weight(step.number, step.steps) / self.config.temperature**2  # published without the factor T^2
        return {
            "soft_objectness": weight * objectness,
            "soft_classes": weight * self.student_training.class_weight * classes,
        }
