"""Filters trained towards zero and taken out in steps, until budgets are met."""

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.pruning.sparsity_options import SparsityOptions
from detpress.training.config import TrainingOptions
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from detpress.detector.architecture import Architecture
    from detpress.detector.coupling import Group
    from detpress.detector.model import Model
    from detpress.pruning.budgets import Budget, Size


TAYLOR_BATCH = 8  # images whose loss is one


class SparseTrainingOptions(Options):
    """How much goes, or may stay, of parameters, MACs or both, and how it is trained meanwhile."""

    parameters: float | None = Field(None, gt=0, lt=1, description="share of the parameters that shall be removed")
    macs: float | None = Field(None, gt=0, lt=1, description="share of the multiply-accumulates that shall be removed")
    max_parameters: int | None = Field(None, ge=1, description="instead of `parameters`: how many may be left")
    max_macs: int | None = Field(None, ge=1, description="instead of `macs`: how many may be left, for one image")
    steps: list[float] = Field(
        [0.5, 0.75, 0.9],
        description="shares that cuts before the last one remove, rising; the smaller of two budgets keeps pace",
    )
    epochs: int = Field(
        10, ge=0, le=10_000, description="of training under the penalties before the first cut; 0: none"
    )
    epochs_per_step: int = Field(
        4, ge=0, le=10_000, description="of training under the penalties between two cuts; 0: none"
    )
    penalties: SparsityOptions = SparsityOptions()
    criterion: Literal["norm", "taylor"] = Field(
        "norm", description="what a filter is worth: DepGraph's norm, or by how much the loss changes without it"
    )
    taylor_images: int = Field(96, ge=1, description="training images that `criterion: taylor` asks, in batches of 8")
    reconstruction_images: int = Field(
        0,
        ge=0,
        le=1024,
        description="training images by which 1x1 convolutions are refitted after each cut, all in memory; 0: none",
    )
    floor: int = Field(3, ge=1, le=1024, description="filters that a layer keeps at least; at it, its block goes whole")
    exclude: list[str] = Field(
        [], description="patterns of layers left whole, such as `layers.0` or `layers.1?`; so are those added to them"
    )
    statistics_images: int = Field(256, ge=2, description="training images that BatchNorms see after each cut")
    training: TrainingOptions = TrainingOptions()

    @model_validator(mode="after")
    def _there_is_a_way(self) -> Self:
        of_parameters, of_macs = (self.parameters, self.max_parameters), (self.macs, self.max_macs)
        if not any((*of_parameters, *of_macs)):
            raise ValueError(
                "expected a share that goes (`parameters`, `macs`), or what may be left (`max_...`), or both"
            )
        if all(of_parameters) or all(of_macs):
            raise ValueError("expected `parameters` or `max_parameters`, and `macs` or `max_macs`, not both")
        if not all(0 < share < 1 for share in self.steps) or any(one >= other for one, other in pairwise(self.steps)):
            raise ValueError("steps: expected shares between 0 and 1, each larger than the one before")
        return self

    @model_validator(mode="after")
    def _is_read(self) -> Self:
        between = not self.epochs_per_step or self.steps_before_last
        epochs = "`epochs` or, where `steps` are below the share that goes, `epochs_per_step` above 0"
        unread = {
            "epochs_per_step": "" if between else "`steps` below the share that goes, between which it trains",
            "taylor_images": "" if self.criterion == "taylor" else "`criterion: taylor`, which asks them",
            "penalties": "" if self.trains else epochs,
            "training": "" if self.trains or self.criterion == "taylor" else epochs,
        }
        for option, beside in unread.items():
            if beside and not self.is_default(option):
                raise ValueError(f"{option}: not read: expected beside {beside}")
        return self

    @property
    def steps_before_last(self) -> bool:
        """Whether a cut comes before the last; with `max_...` it may, which the network's size tells."""
        by_size = self.max_parameters is not None or self.max_macs is not None
        return bool(self.steps) and (by_size or self.steps[0] < max(self.parameters or 0.0, self.macs or 0.0))

    @property
    def trains(self) -> bool:
        return self.epochs > 0 or (self.epochs_per_step > 0 and self.steps_before_last)

    def cuts(self, whole: "Size") -> list[tuple[float, float]]:
        """Shares of parameters and MACs that each cut removes, 0 where that is no budget; the last as asked for.

        A single cut of nothing where the network has no more than may be left.
        """
        parameters, macs = self.parameters or 0.0, self.macs or 0.0
        if self.max_parameters is not None:
            parameters = max(0.0, 1 - self.max_parameters / whole.parameters)
        if self.max_macs is not None:
            macs = max(0.0, 1 - self.max_macs / whole.macs)
        most = max(parameters, macs)
        on_the_way = [(share * parameters / most, share * macs / most) for share in self.steps if share < most]
        return [*on_the_way, (parameters, macs)]


class SparseTraining(Plugin):
    """Trains under penalties that shrink whole filters, and takes out those worth least until budgets are met.

    The penalties are network slimming's and DepGraph's: Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient
    Convolutional Networks through Network Slimming", arXiv:1708.06519, 2017; Fang, Ma, Song, Mi, Wang, "DepGraph:
    Towards Any Structural Pruning", arXiv:2301.12900, 2023. Filters that a residual stream couples are one; all are
    ranked together by DepGraph's importance: the squared norm over a filter's rows, its scales and the columns that
    take it, a mean over these tensors, divided by the group's mean, as its authors' code has it.

    Between cuts it trains on under the same penalties; after each BatchNorm's statistics are taken anew. The last cut
    is not trained on: `train.finetune` does that. What goes is taken out at once, with no mask left behind.
    Where earlier stages have left no more than `max_...` says, it trains as asked and takes nothing out.

    Changed: both penalties at once, under AdamW; two budgets, met together by tilting the ranking towards groups with
    many MACs a parameter or few; down to 3 filters a layer (slimming on YOLOv3 kept 10 %), and residual blocks whose
    inner width is down there go whole, as tanluren's YOLOv3 does by their scales. DepGraph cuts once, and trains on.

    For networks that were not trained under penalties: `criterion: taylor` (Molchanov et al., arXiv:1906.10771, 2019;
    coupled filters have one gate, and batches of 8) and `reconstruction_images` (the least squares of He, Zhang, Sun,
    arXiv:1707.06168, 2017, of 1x1 convolutions alone, all of the cut at once and not layer by layer).
    """

    Config = SparseTrainingOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    version = 2  # what is excluded was drawn towards zero

    def trains(self, config: SparseTrainingOptions) -> bool:
        return config.trains

    def plan(self, model: "Model", config: SparseTrainingOptions) -> Plan:
        import torch

        from detpress.detector.model import new_model
        from detpress.pruning.budgets import Budget, cut_to, size_of

        budget = budgets_of(model.architecture, config)[-1]
        if budget == Budget():
            option = "max_macs" if config.max_parameters is None else "max_parameters"
            raise InputError(f"{option}: the network has {size_of(model.architecture)}, no more")
        evenly = {
            group: torch.arange(1, len(units) + 1) / len(units)
            for group, units in prunable(model.architecture, config).items()
        }
        cut = cut_to(model.architecture, evenly, budget, config.floor)
        names = tuple(model.architecture.names[i] for i in sorted({i for group in cut.kept for i in group}))
        left = new_model(cut.architecture, seed=0).network
        note = "all filters are ranked together; figures from here on are as if each layer lost the same share"
        return Plan(names, model.with_network(left), note)

    def check(self, model: "Model", config: SparseTrainingOptions, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_asked(config, "statistics_images")
        if config.criterion == "taylor":
            images.check_asked(config, "taylor_images")
        if config.reconstruction_images:
            images.check_asked(config, "reconstruction_images")

    def apply(self, model: "Model", config: SparseTrainingOptions, bench: Workbench) -> "Model":
        from detpress.pruning.budgets import Budget, size_of

        whole = size_of(model.architecture)
        budgets = budgets_of(model.architecture, config)
        for number, budget in enumerate(budgets, start=1):
            epochs = config.epochs if number == 1 else config.epochs_per_step

            def trained_and_cut(model: "Model" = model, budget: "Budget" = budget, epochs: int = epochs) -> "Model":
                return cut_down(trained(model, epochs, config, bench), budget, config, bench)

            model = bench.remember_model({"cut": number}, trained_and_cut)
        if budgets == [Budget()]:  # earlier stages took more than `plan` could know
            note = f"nothing was cut: {whole} are no more than may be left"
            model = replace(model, notes=(*model.notes, note))
        return model


def prunable(architecture: "Architecture", config: SparseTrainingOptions) -> "dict[Group, Tensor]":
    """Groups of filters that may go, as `coupled_filters` has them.

    Raises InputError for a pattern that matches no layer, and where none are left.
    """
    from detpress.detector.layer_patterns import matching_layers
    from detpress.pruning.filter_groups import prunable_groups

    excluded = matching_layers(config.exclude, architecture.names, "exclude")
    groups = {
        group: units
        for group, units in prunable_groups(architecture).items()
        if not any(architecture.names[i] in excluded for i in group)
    }
    if not groups:
        raise InputError("exclude: no filter is left that could be taken out")
    return groups


def budgets_of(architecture: "Architecture", config: SparseTrainingOptions) -> "list[Budget]":
    """What each cut may leave of this network; all of it where it has no more than the last may leave."""
    import math

    from detpress.pruning.budgets import Budget, size_of

    def left(share: float, of: int) -> int | None:
        return math.floor((1 - share) * of + 1e-6) if share else None

    whole = size_of(architecture)
    return [
        Budget(left(parameters, whole.parameters), left(macs, whole.macs)) for parameters, macs in config.cuts(whole)
    ]


def trained(model: "Model", epochs: int, config: SparseTrainingOptions, bench: Workbench) -> "Model":
    """Under the penalties; as it is where there are no epochs."""
    from detpress.pruning.sparsity import Sparsity

    if not epochs:
        return model
    penalties = Sparsity(config.penalties, prunable(model.architecture, config))
    return bench.fit(model, config.training.for_epochs(epochs), (penalties,))


def cut_down(model: "Model", budget: "Budget", config: SparseTrainingOptions, bench: Workbench) -> "Model":
    """Without the filters of the least importance, to the budget, with statistics of its own."""
    from detpress.pruning.budgets import cut_to
    from detpress.pruning.cutting import carry_out
    from detpress.pruning.reconstruction import reconstructed
    from detpress.training.statistics import with_statistics_of

    network, architecture = model.own_network, model.architecture
    scores = worth(model, config, bench)
    cut = cut_to(architecture, scores, budget, config.floor)
    for group, kept in cut.kept.items():
        names = ", ".join(architecture.names[i] for i in dict.fromkeys(group))
        bench.log.info("%s: %d -> %d filters, scores %s", names, len(kept), int(kept.sum()), spread(scores[group]))
    for block in cut.blocks:
        bench.log.info("%s to %s: gone", architecture.names[block.source + 1], architecture.names[block.shortcut])
    smaller = carry_out(network, cut)
    if config.reconstruction_images:
        smaller = reconstructed(smaller, network, cut, bench.calibration(config.reconstruction_images))
    images = bench.calibration(config.statistics_images, config.is_default("statistics_images"))
    return model.with_network(with_statistics_of(smaller, images, device=bench.device))


def worth(model: "Model", config: SparseTrainingOptions, bench: Workbench) -> "dict[Group, Tensor]":
    """Group -> (units,): what each is worth by the criterion."""
    from detpress.pruning.coupled_tensors import coupled_tensors, importance
    from detpress.pruning.taylor import taylor_importance

    coupled = coupled_tensors(model.architecture, prunable(model.architecture, config))
    if config.criterion == "norm":
        return importance(model.network, coupled)
    network = copy.deepcopy(model.network).eval().requires_grad_(True)
    return taylor_importance(network, coupled, losses(network, model, config, bench))


def losses(network: "nn.Module", model: "Model", config: SparseTrainingOptions, bench: Workbench) -> "Iterator[Tensor]":
    """The detector's loss of each batch of training images, drawn by the seed, without augmentation."""
    from detpress.detector.images import network_input
    from detpress.training.dataset import collate
    from detpress.training.loss import yolo_loss

    data = bench.training_set(model.architecture)
    count = min(len(data), config.taylor_images) if config.is_default("taylor_images") else config.taylor_images
    drawn = random.Random(bench.seed).sample(range(len(data)), count)
    for start in range(0, count, TAYLOR_BATCH):
        squares, targets = collate([data[i] for i in drawn[start : start + TAYLOR_BATCH]])
        maps = network(network_input(squares))
        yield yolo_loss(maps, targets, model.architecture, config.training.for_epochs(1)).total


def spread(scores: "Tensor") -> str:
    return f"{float(scores.min()):.3g} to {float(scores.max()):.3g}"
