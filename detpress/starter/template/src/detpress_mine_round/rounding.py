"""Weights rounded to a grid.

chain:
  - mine.round: {step: 0.05}
"""

import copy
from typing import TYPE_CHECKING

from detpress.api import Form, Options, Plan, Plugin, Workbench
from pydantic import Field

if TYPE_CHECKING:  # torch takes seconds to import: it is imported where it is used
    from detpress.api import Model
    from torch import Tensor


class RoundOptions(Options):
    """How coarse the grid is."""

    step: float = Field(0.01, gt=0, description="distance between two values that a weight may take")


class RoundWeights(Plugin):
    """Rounds every convolution's weights to multiples of a step.

    Nothing is trained; weights that masks hold at zero stay there. Biases and BatchNorms are left alone.
    """

    Config = RoundOptions
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None  # the form that came in

    def plan(self, model: "Model", config: RoundOptions) -> Plan:
        from detpress.api import Convolution

        named = zip(model.architecture.names, model.architecture.layers, strict=True)
        touched = tuple(name for name, layer in named if isinstance(layer, Convolution))
        return Plan(touched, model, "how many weights become 0 is known when they are rounded")

    def apply(self, model: "Model", config: RoundOptions, bench: Workbench) -> "Model":
        import torch

        network = copy.deepcopy(model.network)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, torch.nn.Conv2d):
                    module.weight.copy_(rounded(module.weight, config.step))
        bench.log.info("rounded to multiples of %g", config.step)
        return model.with_network(network)


def rounded(weights: "Tensor", step: float) -> "Tensor":
    """The nearest multiples of `step`, of the same shape; a half goes to the even one."""
    return (weights / step).round() * step
