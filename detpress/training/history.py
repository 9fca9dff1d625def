"""The course of a training: the mean of every term of the loss, by epoch."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class LossHistory:
    """Sums and counts of each term in each epoch; a term that some steps do not have is averaged over those that do."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.sums: dict[str, list[float]] = {}
        self.counts: dict[str, list[int]] = {}

    def add(self, epoch: int, terms: Mapping[str, float]) -> None:
        """Takes in one step of `epoch`, the first being 0."""
        for name, value in terms.items():
            if name not in self.sums:
                self.sums[name], self.counts[name] = [0.0] * self.epochs, [0] * self.epochs
            self.sums[name][epoch] += value
            self.counts[name][epoch] += 1

    def write(self, path: Path, epochs: int) -> None:
        """A table with the mean of every term in each of the first `epochs`; empty where no step had it."""
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("epoch", *self.sums))
            for epoch in range(epochs):
                table.writerow((epoch + 1, *(self._mean(name, epoch) for name in self.sums)))

    def _mean(self, name: str, epoch: int) -> str:
        count = self.counts[name][epoch]
        return f"{self.sums[name][epoch] / count:.6f}" if count else ""

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = state["sums"], state["counts"]

    def load_means(self, means: Tensor) -> None:
        """Takes the means of box, objectness and classes, (epochs, 3), of a checkpoint of an older version."""
        for name, column in zip(("box", "objectness", "classes"), means.T.tolist(), strict=True):
            self.sums[name], self.counts[name] = column, [int(mean != 0) for mean in column]
