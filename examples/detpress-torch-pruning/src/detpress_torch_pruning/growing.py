"""Growing regularisation as an objective: the gradients that Torch-Pruning adds, as a term of the loss."""

from typing import Any

import torch
import torch_pruning as tp
from detpress.api import Network, Objective, Terms, TrainingStart, TrainingStep
from torch import Tensor

from detpress_torch_pruning.engine import pruner_of


class GrowingRegularisation(Objective):
    """Draws filters towards zero: each epoch those more that are less important within their group."""

    def __init__(self, strength: float, growth: float) -> None:
        super().__init__()
        self.strength, self.growth = strength, growth

    def prepare(self, start: TrainingStart) -> None:
        network = start.network
        assert isinstance(network, Network)
        training = network.training
        self.pruner = pruner_of(
            tp.pruner.GrowingRegPruner,
            network.eval(),  # Torch-Pruning runs it, and BatchNorms would learn from that
            network,
            tp.importance.GroupMagnitudeImportance(),
            reg=self.strength,
            delta_reg=self.growth,
        )
        network.train(training)
        self.epoch = start.steps // start.config.epochs

    def terms(self, step: TrainingStep) -> Terms:
        """Torch-Pruning adds to the gradients in place: what it adds, times the weights, has that gradient."""
        parameters = list(step.network.parameters())
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.pruner.regularize(step.network)
        added = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
        pairs = zip(added, parameters, strict=True)
        products = ((gradient * weight).sum() for gradient, weight in pairs if gradient is not None)
        return {"growing": sum(products, torch.zeros(()))}

    def after_step(self, step: TrainingStep) -> None:
        if (step.number + 1) % self.epoch == 0:
            self.pruner.update_reg()

    def state(self) -> list[Tensor]:
        return list(self.pruner.group_reg.values())

    def load_state(self, state: Any) -> None:
        self.pruner.group_reg = dict(zip(self.pruner.group_reg, state, strict=True))
