"""NNI's structured pruners, and its speedup, which takes out what they masked."""

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from detpress import plugin
from detpress.plugin import Form, Plan, Plugin, Workbench

if TYPE_CHECKING:
    from torch import Tensor

    from detpress.detector.architecture import Architecture
    from detpress.model import Model


class FilterPruning(plugin.Config):
    """How many filters go, and where. Either `sparsity` or `parameters` is given."""

    sparsity: float | None = Field(None, gt=0, lt=1, description="share of each convolution's filters to mask")
    parameters: float | None = Field(
        None, gt=0, lt=1, description="share of the parameters that nni.speedup shall remove; decides the sparsity"
    )
    exclude: list[str] = Field(
        [], description="patterns of layers left whole, such as `layers.0` or `layers.1?`; so are those added to them"
    )
    overrides: dict[str, float] = Field({}, description="sparsity of the layers that a pattern matches; the last wins")
    round_to: int = Field(1, ge=1, le=1024, description="filters kept are rounded up to a multiple of this")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.sparsity is None) == (self.parameters is None):
            raise ValueError("expected either `sparsity` or `parameters`")
        return self


class FilterPruner(Plugin):
    """Masks whole filters. Convolutions whose outputs are added lose the same ones; heads are never touched."""

    Config = FilterPruning
    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED
    engine = "nni"
    pruner: ClassVar[str]

    def plan(self, model: "Model", config: FilterPruning) -> Plan:
        import torch

        channels = model.architecture.output_channels
        removed = filters_to_remove(model.architecture, config)
        any_of_them = {layer: torch.arange(channels[layer]) >= count for layer, count in removed.items()}
        return Plan(tuple(f"layers.{layer}" for layer in removed), _masked(model, any_of_them))

    def apply(self, model: "Model", config: FilterPruning, bench: Workbench) -> "Model":
        from detpress.adapters.nni import choose_filters
        from detpress.errors import StageError

        channels = model.architecture.output_channels
        removed = filters_to_remove(model.architecture, config)
        if not removed:
            raise StageError("masked no filter: at this sparsity, rounding and exclusion no layer has one to spare")
        for layer, count in removed.items():
            bench.log.info("layers.%d: %d of %d filters masked", layer, count, channels[layer])
        return _masked(model, choose_filters(model.network, model.architecture, self.pruner, removed, bench.log))


def _masked(model: "Model", kept: "dict[int, Tensor]") -> "Model":
    """A copy of the model without the filters that are not kept: layer number -> bool (filters,)."""
    import copy

    from detpress.detector.channels import masks_of_filters
    from detpress.model import apply_masks

    network = copy.deepcopy(model.network)
    masks = masks_of_filters(network, kept)
    apply_masks(network, masks)
    return model.with_network(network, Form.MASKED, masks)


def filters_to_remove(architecture: "Architecture", config: FilterPruning) -> dict[int, int]:
    """Layer number -> filters to mask, for the layers that lose any; equal for coupled convolutions.

    Raises InputError for a pattern that matches no layer, a sparsity out of range, coupled layers that are told to
    lose different shares, and a share of parameters that cannot be reached.
    """
    from detpress.detector.channels import stored_parameters, without_filters
    from detpress.errors import InputError

    if config.sparsity is not None:
        return _at_sparsity(architecture, config, config.sparsity)
    assert config.parameters is not None
    whole = stored_parameters(architecture)

    def share_removed(thousandths: int) -> float:
        removed = _at_sparsity(architecture, config, thousandths / 1000)
        return 1 - stored_parameters(without_filters(architecture, removed)) / whole

    thousandths = bisect_left(range(1000), config.parameters, key=share_removed)
    if thousandths == 1000:
        most = math.floor(1000 * share_removed(999)) / 1000
        raise InputError(f"parameters: {config.parameters:g} cannot be reached; at most {most:g} of them can go")
    return _at_sparsity(architecture, config, thousandths / 1000)


def _at_sparsity(architecture: "Architecture", config: FilterPruning, sparsity: float) -> dict[int, int]:
    """`filters_to_remove` where layers that no option names lose the share `sparsity` of their filters."""
    from detpress.detector.architecture import Convolution
    from detpress.detector.channels import coupled_convolutions
    from detpress.errors import InputError
    from detpress.layer_patterns import matching_layers

    convolutions = {f"layers.{i}": i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
    prunable = {name: i for name, i in convolutions.items() if i not in architecture.heads}
    shares = dict.fromkeys(convolutions.values(), 0.0) | dict.fromkeys(prunable.values(), sparsity)
    for pattern, share in config.overrides.items():
        if not 0 <= share < 1:
            raise InputError(f"overrides: '{pattern}': expected a sparsity from 0 to below 1, got {share}")
        shares |= {prunable[name]: share for name in matching_layers([pattern], prunable, "overrides")}
    shares |= {convolutions[name]: 0.0 for name in matching_layers(config.exclude, convolutions, "exclude")}
    removed: dict[int, int] = {}
    for group in coupled_convolutions(architecture):
        told = sorted({shares[i] for i in group})
        if told[0] == 0:  # filters of the others could be masked, but never taken out
            continue
        if len(told) > 1:
            names = ", ".join(f"layers.{i}" for i in group)
            several = " and ".join(f"{share:g}" for share in told)
            raise InputError(f"overrides: {names} are added to each other and need one sparsity, not {several}")
        filters = architecture.output_channels[group[0]]
        wanted = filters - math.floor(told[0] * filters + 1e-9)
        kept = min(filters, max(1, math.ceil(wanted / config.round_to) * config.round_to))
        if kept < filters:
            removed |= dict.fromkeys(group, filters - kept)
    return dict(sorted(removed.items()))


class L1Norm(FilterPruner):
    """Masks the filters whose weights have the smallest L1 norm, the same share in every convolution.

    Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, 2017, by NNI's
    L1NormPruner. There, layers judged sensitive are left whole by hand (here: `exclude`), and where maps are added
    the shortcut's filters decide; NNI takes the mean over all the convolutions behind them.
    """

    pruner = "l1norm"


class L2Norm(FilterPruner):
    """Masks the filters whose weights have the smallest L2 norm, the same share in every convolution.

    NNI's L2NormPruner: the criterion of nni.l1norm with another norm. NNI names no paper for it.
    """

    pruner = "l2norm"


class FPGM(FilterPruner):
    """Masks the filters nearest to all the others of their layer, whose work the others can take over.

    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", arXiv:1811.00250, 2019, by NNI's FPGMPruner: the filters of the smallest sum of Euclidean distances
    to all others. The authors' code chooses anew between epochs of training; NNI chooses once.
    """

    pruner = "fpgm"


class NoOptions(plugin.Config):
    """Nothing to choose."""


class Speedup(Plugin):
    """Takes the masked filters out of the network, which gives the same maps with fewer parameters and MACs.

    NNI's ModelSpeedup: it follows each masked filter through the graph and removes it, and what it fed, where no
    other branch needs it. The result is compared with the masked network before it is accepted.
    """

    Config = NoOptions
    accepts = frozenset({Form.MASKED})
    returns = Form.DENSE
    engine = "nni"

    TOLERANCE: ClassVar[float] = 1e-5  # largest difference of a raw map's element, relative to the largest element

    def plan(self, model: "Model", config: NoOptions) -> Plan:
        from torch import nn

        from detpress.detector.channels import removable_filters, without_filters
        from detpress.model import new_model

        removed = removable_filters(model.architecture, model.masks)
        network = new_model(without_filters(model.architecture, removed), seed=0).network
        for parameter in network.parameters():
            nn.init.ones_(parameter)  # only shapes are planned, and none of what is left counts as zero
        return Plan(tuple(f"layers.{layer}" for layer in removed), model.with_network(network))

    def apply(self, model: "Model", config: NoOptions, bench: Workbench) -> "Model":
        from detpress.adapters.nni import speed_up
        from detpress.detector.channels import masked_filters
        from detpress.errors import StageError

        smaller = model.with_network(speed_up(model.network, model.architecture, model.masks, bench.log))
        before, after = model.architecture.output_channels, smaller.architecture.output_channels
        masked = masked_filters(model.architecture, model.masks)
        for layer, filters in masked.items():
            stay = int(filters.sum()) - (before[layer] - after[layer])
            why = f"; {stay} masked ones stay, another branch needs them" if stay > 0 else ""
            bench.log.info("layers.%d: %d -> %d filters%s", layer, before[layer], after[layer], why)
        if before == after:
            raise StageError("removed no filter: none is masked as a whole in every layer that its output is added to")
        difference = largest_difference(model, smaller)
        bench.log.info("largest difference from the masked network: %.3g of the largest output", difference)
        if not difference <= self.TOLERANCE:
            raise StageError(f"the smaller network differs from the masked one by {difference:.3g} of its output")
        return smaller


def largest_difference(model: "Model", other: "Model") -> float:
    """Between the raw maps that two models give for one random image, relative to the map's largest element."""
    import torch

    side = model.architecture.image_size
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = zip(model.network(image), other.network(image), strict=True)
        return max(float((one - two).abs().max() / one.abs().max().clamp(min=1e-12)) for one, two in pairs)
