"""The mAP of a training's moving average on the validation images: when it is taken, and what it says in the end."""

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from detpress.training.best_average import BestAverage
from detpress.training.config import ChoosingConfig, TrainingConfig, chooses_best
from detpress.training.moving_average import MovingAverage

SCORE_SECONDS = 20.0  # of training, at least, before the average is scored for the first time
SCORE_SHARE = 0.1  # of the time, at most, that scoring takes


class AverageScores:
    """Scores the average after every epoch where the best is chosen, otherwise now and then.

    score: gives the mAP of a network in eval mode; None: nothing is scored. path: of the table of all scores.
    shown: what stands beside the loss.
    """

    def __init__(
        self, config: TrainingConfig, score: Callable[[nn.Module], float] | None, path: Path, log: logging.Logger
    ) -> None:
        self.config = config
        self.score = score
        self.path = path
        self.log = log
        self.best = BestAverage(keeps_tensors=chooses_best(config))
        self.shown = ""
        self.at_end: float | None = None  # of the last average, where it was scored
        self.next_score = time.monotonic() + SCORE_SECONDS

    def after_epoch(self, epoch: int, network: nn.Module, average: MovingAverage) -> None:
        """epoch: the number of those that are done. Raises what `score` raises, where the best is to be chosen."""
        if self.score is None or not self._is_due(epoch):
            return
        started = time.monotonic()
        averaged = copy.deepcopy(network).eval()
        average.give_to(averaged)
        try:
            found = float(self.score(averaged))  # no class of ours in the checkpoint, which is read as plain data
        except Exception as error:
            if chooses_best(self.config):
                raise
            # nothing is decided by it, so it is no reason to lose the training
            self.score, self.shown = None, ""
            self.log.warning("no mAP is shown beside the loss: %s", error)
            return
        self.shown = f", mAP {found:.4f} after {epoch}"
        self.best.see(epoch, found, average.tensors)
        self.best.write(self.path)
        if epoch == self.config.epochs:
            self.at_end = found
        self.log.info("epoch %d of %d%s", epoch, self.config.epochs, self.shown)
        ended = time.monotonic()
        self.next_score = ended + (ended - started) / SCORE_SHARE

    def _is_due(self, epoch: int) -> bool:
        """Always where the best is chosen; otherwise now and then, and at the end to compare it with those seen."""
        if chooses_best(self.config):
            return True
        if epoch == self.config.epochs:
            return isinstance(self.config, ChoosingConfig) and self.best.epoch > 0
        return time.monotonic() >= self.next_score

    def comparison(self) -> str | None:
        """That the end is worse than the best average seen, and which of them was kept; None where it is not."""
        if self.at_end is None or self.at_end >= self.best.map:
            return None
        kept = "which was kept" if chooses_best(self.config) else "which `choose: best` would keep"
        return (
            f"mAP on the validation images was {self.best.map:.4f} after epoch {self.best.epoch} of "
            f"{self.config.epochs}, {kept}, and {self.at_end:.4f} at the end"
        )
