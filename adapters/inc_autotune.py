"""The bridge to INC's autotune: it tries configurations one after the other until one loses little enough.

INC is given the configurations in order, a function that calibrates and one that scores. It takes one network for all
of them, so schemes that equalize and those that do not are tuned in turns. Its sampler, which says what is tried next,
is ours for the sake of the time budget, which INC does not have. What INC would keep, the program of its best trial, is
not used: the scoring function is given our network of every trial, and keeps it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Self

import torch
from torch import Tensor

from detpress.adapters.inc import Scheme, calibrate_convolutions, corrected_network, exported
from detpress.adapters.inc_work import inc_work
from detpress.detector.network import Network
from detpress.errors import StageError


@dataclass(frozen=True)
class Candidate:
    """One configuration. float_layers: layer numbers of the convolutions that stay in float."""

    scheme: Scheme
    float_layers: tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """map: mAP as a fraction. seconds: from its calibration to its score, whenever that was."""

    candidate: Candidate
    map: float
    seconds: float


@dataclass(frozen=True)
class Criterion:
    """When to stop. tolerable_loss: a share of the baseline's mAP. seconds: of all trials; None: no limit."""

    baseline: float
    tolerable_loss: float
    trials: int
    seconds: float | None

    def met(self, trial: Trial) -> bool:
        """As INC decides it."""
        return trial.map >= self.baseline * (1 - self.tolerable_loss)

    def after(self, trials: Sequence[Trial]) -> Self | None:
        """With what these have left of the budget; None where that is nothing, or one of them meets it."""
        left = self.trials - len(trials)
        seconds = None if self.seconds is None else self.seconds - sum(trial.seconds for trial in trials)
        if any(map(self.met, trials)) or left <= 0 or (seconds is not None and seconds <= 0):
            return None
        return replace(self, trials=left, seconds=seconds)


def tune(
    network: Network,
    images: Tensor,
    candidates: Sequence[Candidate],
    criterion: Criterion,
    score: Callable[[Candidate, Network, float], Trial],
    log: logging.Logger,
) -> list[Trial]:
    """The trials in order. The last one meets the criterion, or none does and candidates or budget were used up.

    images: to calibrate with, float32 (N, 3, H, W) in [0, 1]. score: is told when the trial began, by `perf_counter`.
    Raises StageError where the baseline is 0, of which nothing can be lost.
    """
    if not criterion.baseline > 0:
        raise StageError("the float model's mAP on the validation images is 0: a loss cannot be measured from it")
    trials: list[Trial] = []
    for _, alike in groupby(candidates, key=lambda candidate: candidate.scheme.equalizes):
        if left := criterion.after(trials):
            trials += _tune_alike(network, images, list(alike), left, score, log)
    return trials


def _tune_alike(
    network: Network,
    images: Tensor,
    candidates: Sequence[Candidate],
    criterion: Criterion,
    score: Callable[[Candidate, Network, float], Trial],
    log: logging.Logger,
) -> list[Trial]:
    """`tune` of candidates that round the same network."""
    network = candidates[0].scheme.network_to_round(network, images)
    trials: list[Trial] = []
    begun: list[tuple[Candidate, float]] = []

    class WithinBudget:
        """INC's sampler: the index of the next configuration, asked for when the trial before is over."""

        def __init__(self, configurations: object) -> None:
            """INC hands its configurations over, one for each of `candidates`."""

        def __iter__(self) -> Iterator[int]:
            for index, candidate in enumerate(candidates):
                if not criterion.after(trials):
                    return
                begun.append((candidate, time.perf_counter()))
                yield index

    def evaluate(program: Any) -> float:
        if not begun:  # INC begins with the float program
            return criterion.baseline
        candidate, started = begun[-1]
        trials.append(score(candidate, corrected_network(program, network, images, candidate.scheme), started))
        return trials[-1].map

    def calibrate(prepared: torch.fx.GraphModule) -> None:
        calibrate_convolutions(prepared, images, begun[-1][0].scheme)

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
