"""Filters taken out by Torch-Pruning: five ways to tell which.

chain:
  - torch_pruning.taylor: {parameters: 0.5}
  - train.finetune: {epochs: 4}
"""

from typing import TYPE_CHECKING, Any, ClassVar

from detpress.api import Form, ImageCounts, Plan, Plugin, Workbench

from detpress_torch_pruning.options import GradientOptions, GrowingOptions, PruningOptions

if TYPE_CHECKING:
    from detpress.api import Model


class Pruning(Plugin):
    """What the five have in common: dense in, dense and smaller out."""

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    engine = "torch-pruning"
    importance: ClassVar[str] = "GroupMagnitudeImportance"

    def plan(self, model: "Model", config: PruningOptions) -> Plan:
        """The widths are those by magnitude; ranked alike in every group, they are the same by any importance."""
        import torch_pruning as tp

        from detpress_torch_pruning.engine import pruned

        network = pruned(model.own_network, tp.importance.GroupMagnitudeImportance(), config)
        wide, narrow = model.architecture.output_channels, network.architecture.output_channels
        rows = zip(model.architecture.names, wide, narrow, strict=True)
        touched = tuple(name for name, before, after in rows if after < before)
        note = "how much each layer loses is known when filters are ranked" if config.ranking == "global" else ""
        return Plan(touched, model.with_network(network), note)

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        return self._pruned(model, config, bench)

    def _pruned(self, model: "Model", config: PruningOptions, bench: Workbench, gradients: Any = None) -> "Model":
        import torch_pruning as tp

        from detpress_torch_pruning.engine import pruned, size

        importance = getattr(tp.importance, self.importance)()
        network = pruned(model.own_network, importance, config, gradients)
        bench.log.info("%d of %d parameters are left", size(network), size(model.own_network))
        return model.with_network(network)


class Magnitude(Pruning):
    """The filters of the smallest weights, with all that goes with them.

    Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900, 2023, by the authors'
    Torch-Pruning: the importance of a filter is the squared norm of all weights that go with it, those of the next
    convolutions and BatchNorm's scale among them, a mean over these tensors, divided by the mean of the group. Nothing
    is trained.
    """

    Config = PruningOptions


class BatchNormScale(Pruning):
    """The filters of the smallest BatchNorm scales.

    Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network Slimming",
    arXiv:1708.06519, 2017, by Torch-Pruning's `BNScaleImportance`: |gamma|, a mean over the BatchNorms of what goes
    together, divided by the mean of the group. The paper trains with a penalty on the scales before, which a
    `train.finetune` with the objective `sparsity` (scales: 0.001) in front of this does.
    """

    Config = PruningOptions
    importance = "BNScaleImportance"


class Taylor(Pruning):
    """The filters whose loss would change the detector's least, to first order.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, by
    Torch-Pruning's `GroupTaylorImportance`: the sum of |weight * gradient| over all convolutions' weights that go with
    the filter (BatchNorms are left out of it in version 1.6, by a slip of names). The gradient is that of the mean
    loss over `images`, without augmentation.
    """

    Config = GradientOptions
    importance = "GroupTaylorImportance"
    squared: ClassVar[bool] = False

    def check(self, model: "Model", config: GradientOptions, images: ImageCounts) -> None:
        images.check_asked(config, "images")

    def apply(self, model: "Model", config: GradientOptions, bench: Workbench) -> "Model":
        gradients = bench.gradients(model, config.images, config.is_default("images"), squared=self.squared)
        return self._pruned(model, config, bench, gradients)


class Hessian(Taylor):
    """The filters whose loss would change the detector's least, to second order.

    LeCun, Denker, Solla, "Optimal Brain Damage", NIPS 1989, by Torch-Pruning's `GroupHessianImportance`: the sum of
    weight^2 * h over all that goes with the filter, h the mean square of each image's own gradient, which stands for
    the diagonal of the Hessian. The squares are averaged by detpress: Torch-Pruning's `accumulate_grad` (1.6) keeps
    those of the last image alone.
    """

    importance = "GroupHessianImportance"
    squared = True


class GrowingGroupNorm(Pruning):
    """Filters drawn towards zero, more after each epoch, before those of the smallest group norm go.

    Wang, Qin, Zhang, Fu, "Neural Pruning via Growing Regularization", arXiv:2012.09243, 2021, on the groups of DepGraph
    (arXiv:2301.12900), by Torch-Pruning's `GrowingRegPruner`: gamma_k w is added to the gradient of every weight w that
    goes with filter k; after each epoch gamma_k grows by `growth` times 0 for the group's most important filter up to 1
    for the least. Changed: the gradient is a term of the loss, so that detpress's trainer clips it with the rest, and
    AdamW takes it, where the authors' example has SGD.
    """

    Config = GrowingOptions

    def apply(self, model: "Model", config: GrowingOptions, bench: Workbench) -> "Model":
        from detpress_torch_pruning.growing import GrowingRegularisation

        drawn = GrowingRegularisation(config.strength, config.growth)
        trained = bench.fit(model, config.training.for_epochs(config.epochs), (drawn,))
        return self._pruned(trained, config, bench)
