"""The plain baselines of pruning: the smallest go, or chance decides. Nothing is trained.

chain:
  - prune.magnitude: {sparsity: 0.5, masks: filters}
  - nni.speedup: {}
  - train.finetune: {epochs: 8}
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options

if TYPE_CHECKING:
    from torch import Tensor

    from detpress.detector.model import Model
    from detpress.pruning.unit import Unit


class MaskOptions(Options):
    """What is masked, and where."""

    masks: Literal["weights", "filters"] = Field(
        "weights", description="what is masked as a whole; nni.speedup can remove filters only"
    )
    ranking: Literal["uniform", "global"] = Field(
        "uniform", description="the same share of every layer, or the lowest scores of all layers"
    )


class Pruning(MaskOptions):
    """How much of it."""

    sparsity: float = Field(gt=0, lt=1, description="share of the weights, or of the filters, that is masked then")


class Baseline(Plugin):
    """Masks by scores that need no training."""

    Config = Pruning
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = Form.MASKED

    def plan(self, model: "Model", config: Pruning) -> Plan:
        from detpress.pruning.unit import UNITS, even_scores, masked_layers

        planned = _pruned(model, config, even_scores(UNITS[config.masks].kept(model)))
        return Plan(masked_layers(planned), planned, note_of(config))

    def apply(self, model: "Model", config: Pruning, bench: Workbench) -> "Model":
        from detpress.pruning.unit import UNITS

        unit = UNITS[config.masks]
        pruned = _pruned(model, config, self.scores(model, unit, bench))
        kept = unit.kept(pruned)
        left, whole = sum(int(mask.sum()) for mask in kept.values()), sum(mask.numel() for mask in kept.values())
        bench.log.info("%d of %d %s are kept", left, whole, config.masks)
        return pruned

    @abstractmethod
    def scores(self, model: "Model", unit: "Unit", bench: Workbench) -> "dict[Any, Tensor]":
        """Of each entry; the lowest go."""


def _pruned(model: "Model", config: Pruning, scores: "dict[Any, Tensor]") -> "Model":
    from detpress.pruning.selection import select
    from detpress.pruning.unit import UNITS, masked_model

    unit = UNITS[config.masks]
    kept = select(scores, unit.kept(model), config.sparsity, config.ranking, at_least=unit.at_least)
    return masked_model(model, unit, kept)


def note_of(config: MaskOptions) -> str:
    """What a plan cannot know."""
    if config.ranking == "uniform":
        return ""
    return "layers are ranked globally; figures from here on are as if each lost the same share"


class Magnitude(Baseline):
    """Masks the smallest: single weights by |w|, or filters by the mean of |w|.

    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626,
    2015, and for filters Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets",
    arXiv:1608.08710, 2017, without an engine. Of N weights exactly floor(sparsity N) are masked, in every layer or, by
    `ranking: global`, in all together, whatever they are; of equal ones the first. A filter goes with those that it is
    added to, by the mean of their scores, and counts as one; for global ranking scores are divided by the mean of
    their layer, and a layer keeps at least one filter. Heads, BatchNorms and biases of what stays are left alone. Both
    papers train on afterwards (`train.finetune`), and prune again: a model whose masks are there already is brought to
    a higher `sparsity`.
    """

    def scores(self, model: "Model", unit: "Unit", bench: Workbench) -> "dict[Any, Tensor]":
        return unit.magnitudes(model, unit.kept(model))


class Random(Baseline):
    """Masks weights or filters by chance: what any method must beat.

    Drawn from the seed, otherwise as prune.magnitude: exactly as many, filters with those that they are added to. As a
    baseline for filters: Mittal, Bhardwaj, Khapra, Ravindran, "Recovering from Random Pruning", arXiv:1801.10447, 2018.
    """

    def scores(self, model: "Model", unit: "Unit", bench: Workbench) -> "dict[Any, Tensor]":
        from detpress.pruning.selection import random_scores

        return random_scores(unit.kept(model), bench.seed)
