"""One round of continuous sparsification, as an objective."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detpress.pruning.gates import GateNames, Gates, beta_of, hang_into
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep

DROPS = (56 / 85, 71 / 85)  # shares of a round after which the gates' learning rate is a tenth of what it was


@dataclass(frozen=True)
class GateRates:
    """penalty: lambda. rate, momentum: of the gates' SGD. last_beta: of a round."""

    penalty: float
    rate: float
    momentum: float
    last_beta: float


class GatedTraining(Objective):
    """Learns gates beside the weights, with an SGD of their own, and draws them shut.

    values: the numbers s at the beginning, by name. gated: which parameter is multiplied by which.
    """

    def __init__(self, values: Mapping[str, Tensor], gated: GateNames, s0: float, rates: GateRates) -> None:
        super().__init__()
        self.gates, self.gated, self.rates = Gates(values, s0), gated, rates
        self.sgd = torch.optim.SGD(self.gates.parameters(), rates.rate, rates.momentum, nesterov=rates.momentum > 0)

    def prepare(self, start: TrainingStart) -> None:
        self.epochs = start.config.epochs
        hang_into(start.network, self.gates, self.gated)

    def optimizer(self) -> torch.optim.Optimizer:
        return self.sgd

    def terms(self, step: TrainingStep) -> Terms:
        return {"gates": self.rates.penalty * self.gates.total()}

    def after_step(self, step: TrainingStep) -> None:
        """Sets beta and the learning rate that the next step has."""
        done = step.number + 1
        epoch = min(done // (step.steps // self.epochs), self.epochs - 1)
        self.gates.beta.fill_(beta_of(epoch, self.epochs, self.rates.last_beta))
        for group in self.sgd.param_groups:
            group["lr"] = self.rates.rate * 0.1 ** sum(epoch >= drop * self.epochs for drop in DROPS)
