"""The best of a training's moving averages, as far as they were scored."""

import csv
from pathlib import Path
from typing import Any

from torch import Tensor


class BestAverage:
    """The average with the highest mAP, of equal ones the latest.

    scores: mAP by the epoch after which the average was scored, the first being 1.
    tensors: of the best, by name; empty unless they are kept.
    """

    def __init__(self, keeps_tensors: bool) -> None:
        self.keeps_tensors = keeps_tensors
        self.scores: dict[int, float] = {}
        self.tensors: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """After which it was seen; 0 before anything was scored."""
        return max(self.scores, key=lambda epoch: (self.scores[epoch], epoch), default=0)

    @property
    def map(self) -> float:
        return self.scores.get(self.epoch, 0.0)

    def see(self, epoch: int, score: float, tensors: dict[str, Tensor]) -> None:
        """Notes that the average after `epoch` has mAP `score`, and keeps it if none before was better."""
        self.scores[epoch] = score
        if self.keeps_tensors and self.epoch == epoch:
            self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def write(self, path: Path) -> None:
        """A table with the mAP after each epoch that was scored."""
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("epoch", "mAP"), *sorted(self.scores.items())])

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores, "tensors": self.tensors}

    def load(self, state: dict[str, Any]) -> None:
        """Takes the state of a checkpoint; one of an older version knows the best score alone."""
        self.scores = state["scores"] if "scores" in state else {state["epoch"]: state["map"]}
        self.tensors = state["tensors"]
