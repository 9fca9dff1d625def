"""NNI's pruners. What they mask stays in place, at zero; `nni.speedup` takes masked filters out."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.plugins.nni_prune_options import (
    FilterPruning,
    MovementPruning,
    Pruning,
    SlimPruning,
    TrainedPruning,
    WeightPruning,
    filter_targets,
    weight_targets,
)

if TYPE_CHECKING:
    from torch import Size, Tensor

    from detpress.adapters.nni_prune import Schedule
    from detpress.detector.channels import MaskTargets
    from detpress.detector.coupling import Group
    from detpress.detector.model import Model


class Pruner(Plugin):
    """Masks filters or weights that NNI scores lowest. Heads are never touched."""

    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED
    engine = "nni"
    pruner: ClassVar[str]

    def plan(self, model: "Model", config: Any) -> Plan:
        targets = self._targets(model, config)
        kept = _any_weights(model, targets) if self._single_weights(config) else _any_filters(model, targets)
        note = (
            f"{len(targets.ranked)} layers are ranked globally; figures from here on are as if each lost the same share"
        )
        names = tuple(model.architecture.names[layer] for layer in targets.layers)
        return Plan(names, self._masked(model, config, kept), note if targets.ranked else "")

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        from detpress.adapters.nni_prune import choose_filters, choose_weights
        from detpress.errors import StageError

        targets = self._targets(model, config)
        if not targets.layers:
            raise StageError("masked nothing: at this sparsity, rounding and exclusion no layer has a filter to spare")
        choose, what = (choose_weights, "weights") if self._single_weights(config) else (choose_filters, "filters")
        schedule = self._schedule(config)
        network, kept = choose(model.network, model.architecture, self.pruner, targets, bench, schedule)
        for layer, which in kept.items():
            bench.log.info("layers.%d: %d of %d %s masked", layer, int((~which).sum()), which.numel(), what)
        return self._masked(model.with_network(network), config, kept)

    def trains(self, config: Pruning) -> bool:
        return config.epochs > 0

    def _single_weights(self, config: Any) -> bool:
        return False

    def _options(self, config: Any) -> dict[str, Any]:
        """Further arguments of NNI's pruner."""
        return {}

    def _targets(self, model: "Model", config: Any) -> "MaskTargets":
        if self._single_weights(config):
            return weight_targets(model, config)
        return filter_targets(model.architecture, config)

    def _schedule(self, config: Pruning) -> "Schedule":
        from detpress.adapters.nni_prune import Schedule

        training = config.training.for_epochs(config.epochs) if config.epochs else None
        rises = config.schedule
        return Schedule(rises.kind, rises.steps, rises.epochs_per_step, training, self._options(config))

    def _masked(self, model: "Model", config: Any, kept: "dict[int, Tensor]") -> "Model":
        """A copy of the model without what is not kept: layer number -> bool (filters,), or of the weight's shape."""
        import copy

        from detpress.detector.channels import masks_of_filters
        from detpress.detector.model import apply_masks

        network = copy.deepcopy(model.network)
        if self._single_weights(config):
            masks = {f"layers.{layer}.convolution.weight": mask for layer, mask in kept.items()}
        else:
            masks = masks_of_filters(network, kept)
        apply_masks(network, masks)
        return model.with_network(network, Form.MASKED, masks)


def _any_weights(model: "Model", targets: "MaskTargets") -> "dict[int, Tensor]":
    """Such as the targets may leave: layer number -> bool of the weight's shape."""
    kept = {}
    for layer in targets.layers:
        shape = model.network.get_parameter(f"layers.{layer}.convolution.weight").shape
        kept[layer] = _any_of_them(shape, targets.removed.get(layer, int(targets.sparsity * shape.numel())))
    return kept


def _any_filters(model: "Model", targets: "MaskTargets") -> "dict[int, Tensor]":
    """Likewise: layer number -> bool (filters,), alike for coupled filters."""
    import torch

    from detpress.detector.coupling import by_convolution, coupled_filters

    units, ranked = {}, set(targets.ranked)
    for group, filters in coupled_filters(model.architecture).items():
        removed = int(targets.sparsity * len(filters)) if ranked.issuperset(group) else targets.units.get(group, 0)
        units[group] = torch.arange(len(filters)) >= removed
    lost = by_convolution(model.architecture, units)
    widths = model.architecture.output_channels
    return {layer: lost.get(layer, torch.ones(widths[layer], dtype=torch.bool)) for layer in targets.layers}


def _any_of_them(shape: "Size", removed: int) -> "Tensor":
    """A mask, bool of that shape, without `removed` elements, as evenly over the first dimension as can be."""
    import torch

    kept = torch.arange(shape.numel()) >= removed
    return kept.view(-1, shape[0]).T.reshape(shape)


class Level(Pruner):
    """Masks the single weights of the smallest magnitude. The network stays as large and as slow as it was.

    Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626,
    2015, by NNI's LevelPruner. The paper takes the threshold from each layer's standard deviation; here it is the
    share `sparsity`. It also trains on and prunes again: `schedule`, and `train.finetune` afterwards. BatchNorms and
    heads keep their weights. `nni.speedup` cannot use these masks: it takes out whole filters.
    """

    Config = WeightPruning
    pruner = "level"

    def _single_weights(self, config: WeightPruning) -> bool:
        return True


class L1Norm(Pruner):
    """Masks the filters whose weights have the smallest L1 norm.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, 2017, by NNI's
    L1NormPruner. There, layers judged sensitive are left whole by hand (here: `exclude`), and where maps are added
    the shortcut's filters decide; NNI takes the mean over all the convolutions behind them. For global ranking each
    layer's norms are divided by their mean, since filters with more weights have larger norms; NNI does not.
    """

    Config = FilterPruning
    pruner = "l1norm"


class L2Norm(Pruner):
    """Masks the filters whose weights have the smallest L2 norm.

    NNI's L2NormPruner: the criterion of nni.l1norm with another norm. NNI names no paper for it.
    """

    Config = FilterPruning
    pruner = "l2norm"


class FPGM(Pruner):
    """Masks the filters nearest to all the others of their layer, whose work the others can take over.

    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", arXiv:1811.00250, 2019, by NNI's FPGMPruner: the filters of the smallest sum of Euclidean distances
    to all others. The authors' code chooses anew between epochs of training, as a linear or agp `schedule` does here.
    For global ranking each layer's sums are divided by their mean.
    """

    Config = FilterPruning
    pruner = "fpgm"


class Slim(Pruner):
    """Trains with a penalty that shrinks BatchNorm's scales, and masks the filters with the smallest ones.

    Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network Slimming",
    arXiv:1708.06519, 2017, by NNI's SlimPruner. The paper puts the L1 penalty on the scales themselves, by 1e-4 or
    1e-5, and ranks them globally (here: `ranking: global`). NNI gives each scale a factor of its own, 1 at first, with
    an Adam of its own (learning rate 0.01), and puts the penalty on the factors: `penalty` times the mean over the
    layers of the sum over a layer. The factors are ranked, and multiplied into the scales in the end.
    """

    Config = SlimPruning
    pruner = "slim"

    def _targets(self, model: "Model", config: SlimPruning) -> "MaskTargets":
        """Without the groups in which no convolution has a BatchNorm."""
        from detpress.detector.channels import has_part
        from detpress.detector.coupling import coupled_filters, of_units

        def has_norm(group: "Group") -> bool:
            return any(has_part(model.architecture, i, "norm") for i in group)

        targets = super()._targets(model, config)
        scored = {i for group in filter(has_norm, coupled_filters(model.architecture)) for i in group}
        units = {group: count for group, count in targets.units.items() if has_norm(group)}
        ranked = [i for i in targets.ranked if i in scored]
        return replace(targets, removed=of_units(units), ranked=ranked, units=units)

    def _options(self, config: SlimPruning) -> dict[str, Any]:
        return {"regular_scale": config.penalty}


class Taylor(Pruner):
    """Masks the filters whose removal would change the loss least, judged by gradients while it trains.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", arXiv:1906.10771,
    2019, by NNI's TaylorPruner: a filter's sum of (weight * gradient)^2, the mean over the steps of training. The
    paper also puts gates behind the BatchNorms and scores these; NNI scores the convolutions' weights. It ranks all
    layers together and prunes a few filters every few steps: `ranking: global`, `schedule: {kind: linear}`.
    """

    Config = TrainedPruning
    pruner = "taylor"


class Movement(Pruner):
    """Masks the filters, or the single weights, that training moves towards zero.

    Sanh, Wolf, Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv:2005.07683, 2020, by NNI's
    MovementPruner: scores start at zero, get the gradient of their mask straight through, and are stepped by an Adam
    of their own (learning rate 0.01). The sparsity rises by a cubic curve while the network trains, and masks are
    chosen anew after every step. The paper masks single weights of language models; a filter's score is one for all
    its weights here. NNI's curve ends `cooldown` epochs before the training does.
    """

    Config = MovementPruning
    pruner = "movement"

    def _single_weights(self, config: MovementPruning) -> bool:
        return config.masks == "weights"
