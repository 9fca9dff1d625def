"""The weights of one moment of a training, to go back to."""

import copy
from typing import Any

import torch
from torch import Tensor

from detpress.detector.model import Model
from detpress.errors import InputError
from detpress.training.objective import Objective, TrainingStart, TrainingStep


class Snapshot(Objective):
    """Learns nothing, and keeps the network as it is after some step, statistics of BatchNorm with it.

        early, end = Snapshot(share=0.1), Snapshot(share=1.0)
        average = bench.fit(model, training, objectives=(early, end))
        ticket = early.model(average)      # with the weights after a tenth of the steps

    share: of the training's steps, 0 its beginning and 1 its end. step: or so many steps. What is kept are the weights
    themselves, not their moving average.
    """

    def __init__(self, share: float = 0.0, step: int | None = None) -> None:
        super().__init__()
        self.share, self.step = share, step
        self.tensors: dict[str, Tensor] = {}

    def prepare(self, start: TrainingStart) -> None:
        self.at = round(self.share * start.steps) if self.step is None else self.step
        if not 0 <= self.at <= start.steps:
            raise InputError(f"a snapshot of step {self.at}: expected 0 to {start.steps}, which the training has")
        self.tensors = _copied(start.network.state_dict()) if self.at == 0 else {}

    def after_step(self, step: TrainingStep) -> None:
        if step.number + 1 == self.at:
            self.tensors = _copied(step.network.state_dict())

    def state(self) -> dict[str, Tensor]:
        return self.tensors

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.tensors = state

    def model(self, trained: Model) -> Model:
        """`trained`, the model that the training gave, with the weights that were kept."""
        network = copy.deepcopy(trained.network)
        network.load_state_dict(self.tensors)
        return trained.with_network(network)


@torch.no_grad()
def _copied(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
