"""The bridge to INC's autotune: it tries configurations one after the other until one loses little enough.

INC is given the configurations in order, a function that calibrates and one that scores. Its sampler, which says what
is tried next, is ours for the sake of the time budget, which INC does not have. What INC would keep, the program of its
best trial, is not used: the scoring function is given our network of every trial, and keeps it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detpress.adapters.inc import Scheme, calibrate_convolutions, corrected_network, exported
from detpress.adapters.inc_work import inc_work
from detpress.detector.network import Network
from detpress.encodings.equalization import equalized
from detpress.errors import StageError


@dataclass(frozen=True)
class Candidate:
    """One configuration. float_layers: layer numbers of the convolutions that stay in float."""

    scheme: Scheme
    float_layers: tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """map: mAP as a fraction. seconds: that scoring took, whenever that was."""

    candidate: Candidate
    map: float
    seconds: float


@dataclass(frozen=True)
class Criterion:
    """When to stop. tolerable_loss: a share of the baseline's mAP. seconds: of all trials' scoring; None: no limit."""

    baseline: float
    tolerable_loss: float
    trials: int
    seconds: float | None

    def met(self, trial: Trial) -> bool:
        """As INC decides it."""
        return trial.map >= self.baseline * (1 - self.tolerable_loss)


def tune(
    network: Network,
    images: Tensor,
    candidates: Sequence[Candidate],
    criterion: Criterion,
    score: Callable[[Candidate, Network], Trial],
    log: logging.Logger,
) -> list[Trial]:
    """The trials in order. The last one meets the criterion, or none does and candidates or budget were used up.

    images: to calibrate with, float32 (N, 3, H, W) in [0, 1].
    Raises StageError where the baseline is 0, of which nothing can be lost.
    """
    if not criterion.baseline > 0:
        raise StageError("the float model's mAP on the validation images is 0: a loss cannot be measured from it")
    if all(candidate.scheme.equalizes for candidate in candidates):
        network = equalized(network, images)
    trials: list[Trial] = []
    begun: list[Candidate] = []

    class WithinBudget:
        """INC's sampler: the index of the next configuration, asked for when the trial before is over."""

        def __init__(self, configurations: object) -> None:
            """INC hands its configurations over, one for each of `candidates`."""

        def __iter__(self) -> Iterator[int]:
            for index, candidate in enumerate(candidates):
                if trials and criterion.seconds is not None and sum(t.seconds for t in trials) >= criterion.seconds:
                    return
                begun.append(candidate)
                yield index

    def evaluate(program: Any) -> float:
        if not begun:  # INC begins with the float program
            return criterion.baseline
        trials.append(score(begun[-1], corrected_network(program, network, images, begun[-1].scheme)))
        return trials[-1].map

    def calibrate(prepared: torch.fx.GraphModule) -> None:
        calibrate_convolutions(prepared, images, begun[-1].scheme)

    with inc_work(log, "torch"), torch.no_grad():
        from neural_compressor.torch.quantization import StaticQuantConfig, TuningConfig, autotune

        configurations = [candidate.scheme.config(candidate.float_layers) for candidate in candidates]
        for n, configuration in enumerate(configurations):  # INC skips equal ones, and does not know all of a scheme
            configuration.set_local(f"candidate {n}", StaticQuantConfig())
        tuning = TuningConfig(
            config_set=configurations,
            sampler=WithinBudget,
            tolerable_loss=criterion.tolerable_loss,
            max_trials=criterion.trials,
        )
        autotune(exported(network, images), tuning, eval_fn=evaluate, run_fn=calibrate)
    return trials
