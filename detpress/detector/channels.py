"""What a pruner masks, and what a network is without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.coupling import Group, by_convolution, coupled_filters
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, weight_name, without_memory


@dataclass(frozen=True)
class MaskTargets:
    """What a pruner shall mask: filters, or single weights.

    removed: convolution's layer number -> how many.
    ranked: further convolutions that compete: `sparsity` is the share that they lose together, `at_most` the largest
        share that one of them may lose. How many each loses is known only after they are ranked.
    units: how many of its units each group of filters loses, of all convolutions in `removed`; what follows from that
        is not said where the groups are plain.
    """

    removed: Mapping[int, int]
    ranked: Sequence[int]
    sparsity: float
    at_most: float
    units: Mapping[Group, int] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        return sorted([*self.removed, *self.ranked])


def has_part(architecture: Architecture, layer: int, part: str) -> bool:
    """Whether the layer's module has a `convolution`, or a `norm`."""
    found = architecture.layers[layer]
    return isinstance(found, Convolution) and (part == "convolution" or found.batch_normalize)


def masks_of_filters(network: nn.Module, kept: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Masks under which a filter that is not kept gives exactly zero: of its weights, and of what follows them.

    kept: convolution's layer number -> bool (filters,).
    Returns parameter name -> bool tensor of the parameter's shape. Without its BatchNorm's scale and shift a filter
    whose weights are zero would still give a constant.
    """
    parameters = dict(network.named_parameters())
    masks = {}
    for layer, filters in kept.items():
        for part in ("convolution.weight", "convolution.bias", "norm.weight", "norm.bias"):
            name = f"layers.{layer}.{part}"
            if name in parameters:
                shape = parameters[name].shape
                masks[name] = filters.view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
    return masks


def masked_filters(architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Convolution's layer number -> bool (filters,), True where a filter's weights are all held at zero.

    masks: parameter name -> bool tensor of the parameter's shape. Layers without a masked filter are left out.
    """
    found = {}
    for i in range(len(architecture.layers)):
        mask = masks.get(weight_name(i))
        if mask is not None and not (kept := mask.flatten(1).any(dim=1)).all():
            found[i] = ~kept
    return found


def removable_filters(architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[int, int]:
    """Convolution's layer number -> how many masked filters can be taken out: those that `kept_filters` leaves out."""
    return {i: int((~kept).sum()) for i, kept in kept_filters(architecture, masks).items()}


def kept_filters(architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Convolution's layer number -> bool (filters,), False where a filter is masked in its whole unit.

    Heads keep theirs: each is an output. Layers that keep all are left out.
    """
    masked, heads = masked_filters(architecture, masks), set(architecture.heads)
    kept = {
        group: ~torch.stack([masked[i][each] for i, each in zip(group, filters.T, strict=True)]).all(dim=0)
        for group, filters in coupled_filters(architecture).items()
        if heads.isdisjoint(group) and masked.keys() >= set(group)
    }
    return dict(sorted(by_convolution(architecture, kept).items()))


def without_filters(architecture: Architecture, removed: Mapping[int, int]) -> Architecture:
    """The layer list with so many filters less: convolution's layer number -> filters removed."""
    layers = list(architecture.layers)
    for i, count in removed.items():
        layer = layers[i]
        assert isinstance(layer, Convolution)
        layers[i] = layer.with_filters(layer.filters - count)
    return replace(architecture, layers=tuple(layers))


def stored_parameters(architecture: Architecture) -> int:
    """How many parameters a network of this layer list has; no weight is made to count them."""
    with without_memory():
        return sum(parameter.numel() for parameter in Network(architecture).parameters())
