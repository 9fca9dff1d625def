"""NNI's structured pruners, and its speedup, which takes out what they masked."""

import logging
import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from detpress import plugin
from detpress.plugin import Form, Plan, Plugin, Workbench

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.model import Model

QUIET = logging.getLogger("detpress.plan")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


class FilterPruning(plugin.Config):
    """How many filters go, and where."""

    sparsity: float = Field(gt=0, lt=1, description="share of each convolution's filters to mask")
    exclude: list[str] = Field([], description="patterns of layers left whole, such as `layers.0` or `layers.1?`")
    overrides: dict[str, float] = Field({}, description="sparsity of the layers that a pattern matches; the last wins")
    round_to: int = Field(1, ge=1, le=1024, description="filters kept are rounded up to a multiple of this")


class FilterPruner(Plugin):
    """Masks whole filters. Convolutions whose outputs are added lose the same ones; heads are never touched."""

    Config = FilterPruning
    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED
    engine = "nni"
    pruner: ClassVar[str]

    def plan(self, model: "Model", config: FilterPruning) -> Plan:
        masked = self._mask(model, config, QUIET)
        layers = tuple(name.removesuffix(".convolution.weight") for name in masked.masks if name.endswith("n.weight"))
        return Plan(layers, masked)

    def apply(self, model: "Model", config: FilterPruning, bench: Workbench) -> "Model":
        removed = filters_to_remove(model.architecture, config)
        for layer, count in removed.items():
            filters = model.architecture.layers[layer].filters  # type: ignore[union-attr]
            bench.log.info("layers.%d: %d of %d filters masked", layer, count, filters)
        return self._mask(model, config, bench.log)

    def _mask(self, model: "Model", config: FilterPruning, log: logging.Logger) -> "Model":
        import copy

        from detpress.adapters.nni import filter_masks
        from detpress.errors import StageFailed
        from detpress.model import apply_masks

        removed = filters_to_remove(model.architecture, config)
        if not removed:
            raise StageFailed("no layer has a filter to spare at this sparsity")
        masks = filter_masks(model.network, model.architecture, self.pruner, removed, log)
        network = copy.deepcopy(model.network)
        apply_masks(network, masks)
        return model.with_network(network, Form.MASKED, masks)


def filters_to_remove(architecture: "Architecture", config: FilterPruning) -> dict[int, int]:
    """Layer number -> filters to mask, for the layers that lose any; equal for coupled convolutions.

    Raises InputError for a pattern that matches no layer, a sparsity out of range, and coupled layers that are told
    to lose different shares.
    """
    from detpress.detector.architecture import Convolution
    from detpress.detector.channels import coupled_convolutions
    from detpress.errors import InputError
    from detpress.layer_patterns import matching_layers

    heads = architecture.heads
    names = {
        f"layers.{i}": i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution) and i not in heads
    }
    sparsity = {i: config.sparsity for i in names.values()}
    for pattern, value in config.overrides.items():
        if not 0 <= value < 1:
            raise InputError(f"overrides: '{pattern}': expected a sparsity from 0 to below 1, got {value}")
        sparsity |= {names[name]: value for name in matching_layers([pattern], names, "overrides")}
    sparsity |= {names[name]: 0.0 for name in matching_layers(config.exclude, names, "exclude")}
    removed = {}
    for group in coupled_convolutions(architecture):
        members = [i for i in group if i in sparsity]
        shares = {sparsity[i] for i in members}
        # A layer left whole keeps its partners whole: their filters could be masked, but never taken out.
        share = 0.0 if 0.0 in shares or len(members) < len(group) else max(shares)
        if share and len(shares) > 1:
            raise InputError(
                f"overrides: layers {', '.join(map(str, members))} are added to each other and need one sparsity, "
                f"not {', '.join(f'{value:g}' for value in sorted(shares))}"
            )
        filters = architecture.layers[group[0]].filters  # type: ignore[union-attr]
        wanted = filters - math.floor(share * filters + 1e-9)
        kept = min(filters, max(1, math.ceil(wanted / config.round_to) * config.round_to))
        if kept < filters:
            removed |= {i: filters - kept for i in members}
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

    NNI's L2NormPruner: the criterion of nni.l1norm with another norm.
    """

    pruner = "l2norm"


class FPGM(FilterPruner):
    """Masks the filters nearest to all the others of their layer, whose work the others can take over.

    He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", arXiv:1811.00250, 2019, by NNI's FPGMPruner. The paper prunes softly during training; NNI masks
    once, by the sum of distances to all other filters.
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
        smaller = self._shrink(model, QUIET)
        return Plan(tuple(_narrower(model, smaller)), smaller)

    def apply(self, model: "Model", config: NoOptions, bench: Workbench) -> "Model":
        from detpress.errors import StageFailed

        smaller = self._shrink(model, bench.log)
        narrower = _narrower(model, smaller)
        if not narrower:
            raise StageFailed("removed no filter: every masked one is needed by another branch")
        for name, (before, after, masked) in narrower.items():
            kept = f"; {masked - (before - after)} masked ones stay, another branch needs them"
            bench.log.info("%s: %d -> %d filters%s", name, before, after, kept if before - after < masked else "")
        difference = _largest_difference(model, smaller)
        bench.log.info("largest difference from the masked network: %.3g of the largest output", difference)
        if difference > self.TOLERANCE:
            raise StageFailed(f"the smaller network differs from the masked one by {difference:.3g} of its output")
        return smaller

    def _shrink(self, model: "Model", log: logging.Logger) -> "Model":
        from detpress.adapters.nni import speed_up

        return model.with_network(speed_up(model.network, model.architecture, model.masks, log))


def _narrower(before: "Model", after: "Model") -> dict[str, tuple[int, int, int]]:
    """Layer name -> filters before, filters after, filters masked, for the layers that lost or could lose some."""
    from detpress.detector.architecture import Convolution

    found = {}
    for i, (old, new) in enumerate(zip(before.architecture.layers, after.architecture.layers, strict=True)):
        mask = before.masks.get(f"layers.{i}.convolution.weight")
        if isinstance(old, Convolution) and isinstance(new, Convolution) and mask is not None:
            masked = int((~mask.flatten(1).any(dim=1)).sum())
            if masked and old.filters != new.filters:
                found[f"layers.{i}"] = (old.filters, new.filters, masked)
    return found


def _largest_difference(model: "Model", other: "Model") -> float:
    """Between the raw maps for one random image, relative to the largest element."""
    import torch

    side = model.architecture.image_size
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pairs = zip(model.network(image), other.network(image), strict=True)
        return max(float((one - two).abs().max() / one.abs().max().clamp(min=1e-12)) for one, two in pairs)
