"""Training as steps of a chain, on the detector's own loss (`detpress.training.loss`)."""

from typing import TYPE_CHECKING

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.training.config import ChoosingConfig

if TYPE_CHECKING:
    from detpress.detector.model import Model


class Scratch(Plugin):
    """Trains from new initial weights, drawn from the seed: what the model knew before is gone, its layers stay.

    With a compressed network before it, this is the comparison with one of the same shape trained from nothing.
    """

    Config = ChoosingConfig
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    engine = "pytorch-lightning"

    def plan(self, model: "Model", config: ChoosingConfig) -> Plan:
        return Plan((), model)

    def apply(self, model: "Model", config: ChoosingConfig, bench: Workbench) -> "Model":
        from detpress.detector.model import new_model

        return bench.fit(new_model(model.architecture, bench.seed), config)


class Finetune(Plugin):
    """Trains on from the weights that the model has; zeros held by masks stay zero."""

    Config = ChoosingConfig
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = None
    engine = "pytorch-lightning"

    def plan(self, model: "Model", config: ChoosingConfig) -> Plan:
        return Plan((), model)

    def apply(self, model: "Model", config: ChoosingConfig, bench: Workbench) -> "Model":
        return bench.fit(model, config)
