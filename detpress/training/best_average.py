"""The best of a training's moving averages, as far as they were scored."""

from typing import Any

from torch import Tensor


class BestAverage:
    """The average with the highest mAP, of equal ones the latest.

    epoch: after which it was seen, the first being 1; 0 before anything was scored.
    tensors: of the average, by name; empty unless they are kept.
    """

    def __init__(self, keeps_tensors: bool) -> None:
        self.keeps_tensors = keeps_tensors
        self.epoch = 0
        self.map = 0.0
        self.tensors: dict[str, Tensor] = {}

    def see(self, epoch: int, score: float, tensors: dict[str, Tensor]) -> None:
        """Takes the average after `epoch`, of mAP `score`, if none before was better."""
        if self.epoch == 0 or score >= self.map:
            self.epoch, self.map = epoch, score
            if self.keeps_tensors:
                self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "map": self.map, "tensors": self.tensors}

    def load(self, state: dict[str, Any]) -> None:
        self.epoch, self.map, self.tensors = state["epoch"], state["map"], state["tensors"]
