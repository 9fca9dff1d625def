"""What a training steps with: the ordinary optimizer, its schedule, and how many steps there are."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from detpress.training.config import TrainingConfig


def new_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig, kind: type[AdamW] = AdamW) -> AdamW:
    """AdamW with weight decay on the weights of convolutions, none on norms and biases."""
    every = list(parameters)
    decayed = [p for p in every if p.ndim > 1]
    others = [p for p in every if p.ndim <= 1]
    return kind(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
