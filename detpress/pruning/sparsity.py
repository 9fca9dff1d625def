"""Sparse training, as an objective."""

from collections.abc import Mapping

from torch import Tensor

from detpress.detector.coupling import Group
from detpress.detector.model import Model
from detpress.errors import InputError
from detpress.pruning.coupled_tensors import coupled_tensors, group_penalty, scale_penalty
from detpress.pruning.filter_groups import prunable_groups
from detpress.pruning.sparsity_options import SparsityOptions
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep


class Sparsity(Objective):
    """Draws whole filters towards zero, with all that goes with them: those that are needed least, the most.

    scales: Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network Slimming",
    arXiv:1708.06519, 2017: L1 norm of BatchNorm's scales, 1e-4 or 1e-5 in the paper. groups: Fang, Ma, Song, Mi, Wang,
    "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900, 2023, by its code: reg gamma_k w is added to the
    gradient of every weight w that goes with filter k, with gamma_k from 1 for the group's most important filter to 16
    for the least, and reg 1e-4. Here both are terms of the loss with that gradient, under the trainer's AdamW and its
    clipping; there they are added for SGD, unclipped. Heads' own filters, and those that cannot be taken out, are free.

    drawn: groups as `coupled_filters` has them, where it is not all that can be taken out.
    """

    Config = SparsityOptions
    on_several_devices = True

    def __init__(self, config: SparsityOptions, drawn: Mapping[Group, Tensor] | None = None) -> None:
        super().__init__(config)
        self.drawn = drawn

    def check(self, model: Model) -> None:
        if not prunable_groups(model.architecture):
            raise InputError("groups: the network has no filter that can be taken out")

    def prepare(self, start: TrainingStart) -> None:
        drawn = prunable_groups(start.architecture) if self.drawn is None else self.drawn
        self.coupled = coupled_tensors(start.architecture, drawn)

    def terms(self, step: TrainingStep) -> Terms:
        terms = {}
        if self.config.scales:
            terms["scales"] = self.config.scales * scale_penalty(step.network, self.coupled)
        if self.config.groups:
            terms["groups"] = self.config.groups * group_penalty(step.network, self.coupled)
        return terms
