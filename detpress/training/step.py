"""One step of a training, the ordinary one or an engine's: the loss of a batch, and what the optimizer steps on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from detpress.detector.architecture import Architecture
from detpress.training.config import TrainingConfig
from detpress.training.loss import Targets, yolo_loss

Batch = tuple[Tensor, Targets]  # images float32 (N, 3, S, S) in [0, 1], and their objects
TrainingStep = Callable[[Batch, nn.Module], tuple[Tensor, Tensor]]
ExtraLoss = Callable[[nn.Module, Tensor, Sequence[Tensor]], Tensor]  # network, images, raw maps -> scalar
AfterStep = Callable[[nn.Module], None]


@dataclass(frozen=True)
class EngineTraining:
    """What an engine puts in the place of the ordinary optimizer and training step.

    optimizer: over the network's parameters; each group's learning rate is the highest of the ordinary schedule.
    step: (batch, network) -> (loss, its parts), as `DetectionStep`, around which engines hang losses of their own.
    state, load_state: what the engine must have back after a kill and does not keep in the network, as plain data and
        tensors; asked for when a checkpoint is written.
    """

    optimizer: Optimizer
    step: TrainingStep
    state: Callable[[], dict[str, Any]]
    load_state: Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class DetectionStep:
    """The ordinary training step: the network's loss on a batch of augmented images.

    Returns the loss and, detached, its three parts: float32 (3,).
    """

    architecture: Architecture
    config: TrainingConfig
    losses: Sequence[ExtraLoss] = ()

    def __call__(self, batch: Batch, network: nn.Module) -> tuple[Tensor, Tensor]:
        images, targets = batch
        maps = network(images)
        loss = yolo_loss(maps, targets, self.architecture, self.config)
        total = loss.total
        for extra in self.losses:
            total = total + extra(network, images, maps)
        return total, torch.stack([loss.box, loss.objectness, loss.classes]).detach()


def new_optimizer(network: nn.Module, config: TrainingConfig, kind: type[AdamW] = AdamW) -> AdamW:
    """AdamW with weight decay on the weights of convolutions, none on norms and biases."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return kind(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )


def new_schedule(optimizer: Optimizer, steps: int, config: TrainingConfig) -> LRScheduler:
    """Warm-up to each group's learning rate, then a cosine down to nothing; fewer than four steps have no room for it.

    In these the rate stays what it is: the schedule's last step is taken at a rate that changes no weight.
    """
    if steps < 4:
        return ConstantLR(optimizer, factor=1.0)
    one_step = config.warmup * steps == 1  # PyTorch divides by the steps of the warm-up after the first
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=0.999 * config.warmup if one_step else config.warmup,
        cycle_momentum=False,
    )


def steps_per_epoch(images: int, config: TrainingConfig) -> int:
    """Steps of the optimizer in one pass over so many images; the last, smaller batch is left out."""
    own = -(-images // config.devices)
    return own // min(config.batch_size, own)
