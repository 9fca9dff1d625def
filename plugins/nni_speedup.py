"""NNI's speedup, which takes out what any pruner has masked."""

import copy
from typing import TYPE_CHECKING, ClassVar

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import NoOptions

if TYPE_CHECKING:
    from detpress.detector.model import Model


class Speedup(Plugin):
    """Takes the masked filters out of the network, which gives the same maps with fewer parameters and MACs.

    NNI's ModelSpeedup: it follows each masked filter through the graph and removes it, and what it fed, where no
    other branch needs it. Networks with ReLUs are narrowed by detpress itself, from the layer list: NNI would take out
    channels that no pruner masked. The result is compared with the masked network before it is accepted.
    """

    Config = NoOptions
    accepts = frozenset({Form.MASKED})
    returns = Form.DENSE
    engine = "nni"

    TOLERANCE: ClassVar[float] = 1e-5  # largest difference of a raw map's element, relative to the largest element

    def plan(self, model: "Model", config: NoOptions) -> Plan | None:
        from torch import nn

        from detpress.detector.channels import masked_filters, removable_filters, without_filters
        from detpress.detector.model import new_model
        from detpress.errors import InputError

        removed = removable_filters(model.architecture, model.masks)
        if not removed:
            raise InputError("would remove nothing: no filter is masked as a whole in every layer that it is added to")
        if single_weights_masked(model):
            return None  # which filters have none left is known when they were chosen
        if empty := emptied_layer(model):
            raise InputError(f"would leave nothing: all filters of {empty} are masked")
        network = new_model(without_filters(model.architecture, removed), seed=0).network
        for parameter in network.parameters():
            nn.init.ones_(parameter)  # only shapes are planned, and none of what is left counts as zero
        masked = {
            layer: int(filters.sum()) for layer, filters in masked_filters(model.architecture, model.masks).items()
        }
        names = model.architecture.names
        stay = [
            f"{count - removed.get(i, 0)} of {names[i]}" for i, count in masked.items() if count > removed.get(i, 0)
        ]
        note = f"masked filters that stay, another branch needs them: {', '.join(stay)}" if stay else ""
        return Plan(tuple(names[layer] for layer in removed), model.with_network(network, Form.DENSE), note)

    def apply(self, model: "Model", config: NoOptions, bench: Workbench) -> "Model":
        from detpress.adapters.nni_speedup import speed_up
        from detpress.detector.channels import masked_filters
        from detpress.errors import StageError

        if empty := emptied_layer(model):
            raise StageError(f"would leave nothing: all filters of {empty} are masked")
        network = speed_up(model.network, model.architecture, model.masks, bench.log)
        smaller = model.with_network(network, Form.DENSE)
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


def single_weights_masked(model: "Model") -> bool:
    """Whether a filter has lost some of its weights."""
    filters = [mask.flatten(1) for mask in model.masks.values() if mask.ndim > 1]  # and not of scales or biases
    return any(bool((each.any(dim=1) != each.all(dim=1)).any()) for each in filters)


def emptied_layer(model: "Model") -> str | None:
    """The name of the first layer of which no filter would be left."""
    from detpress.detector.channels import kept_filters

    kept = kept_filters(model.architecture, model.masks)
    return next((model.architecture.names[layer] for layer, filters in kept.items() if not filters.any()), None)


def largest_difference(model: "Model", other: "Model") -> float:
    """Between the raw maps that two models give for one random image, relative to the map's largest element.

    NaN where any element is. In float64: sums of fewer channels are rounded otherwise, and a BatchNorm that takes a
    large mean off leaves little but rounding.
    """
    import torch

    size = model.architecture.input_size
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        one, two = (copy.deepcopy(each.network).double()(image) for each in (model, other))
    differences = [(a - b).abs().max() / a.abs().max().clamp(min=1e-12) for a, b in zip(one, two, strict=True)]
    return float(torch.stack(differences).max())
