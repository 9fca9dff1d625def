"""What a training steps with: the ordinary optimizer, its schedule, and how many steps there are."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from detpress.training.config import TrainingConfig

START = 25.0  # the highest learning rate, by the first
CYCLE_RISE = 0.45  # share of the steps in which one cycle rises; it falls in as many


def new_optimizer(
    parameters: Iterable[nn.Parameter],
    config: TrainingConfig,
    kind: type[AdamW] = AdamW,
    slower: Iterable[nn.Parameter] = (),
) -> AdamW:
    """AdamW with weight decay on the weights of convolutions, on norms and biases only where all are `decayed`.

    slower: those of the parameters that learn at the rate of the backbone.
    """
    every, slow = list(parameters), {id(p) for p in slower}
    groups = _groups([p for p in every if id(p) not in slow], config, config.learning_rate)
    if slow:
        rate = config.backbone_rate * config.learning_rate
        groups += _groups([p for p in every if id(p) in slow], config, rate)
    return kind(groups, lr=config.learning_rate, foreach=True)  # the same bits as one by one, in less time


def _groups(parameters: list[nn.Parameter], config: TrainingConfig, rate: float) -> list[dict[str, Any]]:
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    on_others = config.weight_decay if config.decayed == "all" else 0.0
    return [
        {"params": decayed, "weight_decay": config.weight_decay, "lr": rate},
        {"params": others, "weight_decay": on_others, "lr": rate},
    ]


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def new_schedule(optimizer: Optimizer, steps: int, config: TrainingConfig) -> LRScheduler:
    """From a 25th of each group's learning rate up to it, and then as the configuration says.

    cosine: half a cosine up in the warm-up, the other half down to nothing (a 250,000th) in the rest.
    constant: the same warm-up, then the highest rate.
    one_cycle: Smith, "A disciplined approach to neural network hyper-parameters: Part 1", arXiv:1803.09820, 2018. A
        straight line up in 45 % of the steps, one down again in as many, and in the last tenth a line on to nothing.
        Momentum (Adam's first beta) mirrors it, 0.95 to 0.85 and back, and stays there. The paper says "a few" for the
        length of the end and leaves the lowest rate to a test of ranges: the tenth and the 25th are ours.
    Fewer than four steps have no room for any: in these the rate stays what it is, since a schedule's last step is
    taken at a rate that changes no weight.
    """
    if steps < 4:
        return ConstantLR(optimizer, factor=1.0)
    highest = [group["lr"] for group in optimizer.param_groups]
    if config.schedule == "one_cycle":
        mirrored = not {"betas", "momentum"}.isdisjoint(optimizer.defaults)
        return OneCycleLR(
            optimizer,
            max_lr=highest,
            total_steps=steps,
            pct_start=CYCLE_RISE,
            anneal_strategy="linear",
            three_phase=True,
            cycle_momentum=mirrored,
        )
    one_step = config.warmup * steps == 1  # PyTorch divides by the steps of the warm-up after the first
    return OneCycleLR(
        optimizer,
        max_lr=highest,
        total_steps=steps,
        pct_start=0.999 * config.warmup if one_step else config.warmup,
        div_factor=START,
        final_div_factor=1 / START if config.schedule == "constant" else 1e4,
        cycle_momentum=False,
    )


def steps_per_epoch(images: int, config: TrainingConfig) -> int:
    """Steps of the optimizer in one pass over so many images; the last, smaller batch is left out."""
    own = -(-images // config.devices)
    return own // min(config.batch_size, own)
