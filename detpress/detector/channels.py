"""Which filters go together, and what a network is without some of them: read off the layer list.

A shortcut adds two maps channel by channel, so the convolutions behind both must lose the same channels. In

    0  Convolution(64)      <- with 0
    1  Convolution(32)
    2  Convolution(64)      <- with 0
    3  Shortcut(source=0)   adds 0 and 2
    4  Convolution(32)
    5  Convolution(64)      <- with 0
    6  Shortcut(source=3)   adds (0 + 2) and 5

the convolutions 0, 2 and 5 form one group; 1 and 4 are groups of their own. What is concatenated needs no group: the
next convolution loses the inputs of either part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution, Route, Shortcut
from detpress.detector.network import Network
from detpress.errors import InputError


@dataclass(frozen=True)
class MaskTargets:
    """What a pruner shall mask: filters, or single weights.

    removed: convolution's layer number -> how many.
    ranked: further convolutions that compete: `sparsity` is the share that they lose together, `at_most` the largest
        share that one of them may lose. How many each loses is known only after they are ranked.
    """

    removed: Mapping[int, int]
    ranked: Sequence[int]
    sparsity: float
    at_most: float

    @property
    def layers(self) -> list[int]:
        return sorted([*self.removed, *self.ranked])


def coupled_convolutions(architecture: Architecture) -> list[tuple[int, ...]]:
    """Groups of convolutions whose filters are pruned alike, each sorted, in the order of their first members.

    Raises InputError for grouped convolutions, which tie filters to inputs, and where a shortcut adds maps that were
    concatenated in different ways.
    """
    parent = list(range(len(architecture.layers)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    behind: list[tuple[int, ...]] = []  # for each layer, the convolutions that its channels come from, in order
    for i, layer in enumerate(architecture.layers):
        before = behind[i - 1] if i else ()
        match layer:
            case Convolution(groups=groups):
                if groups != 1:
                    raise InputError(f"layer {i}: filters of a network with grouped convolutions cannot be pruned")
                behind.append((i,))
            case Route(sources=sources):
                behind.append(tuple(part for source in sources for part in behind[source]))
            case Shortcut(source=source):
                if len(behind[source]) != len(before):
                    raise InputError(f"layer {i}: a shortcut between differently concatenated maps cannot be pruned")
                for one, other in zip(behind[source], before, strict=True):
                    low, high = sorted((root(one), root(other)))
                    parent[high] = low
                behind.append(before)
            case _:
                behind.append(before)
    members: dict[int, list[int]] = {}
    for i, layer in enumerate(architecture.layers):
        if isinstance(layer, Convolution):
            members.setdefault(root(i), []).append(i)
    return [tuple(group) for group in members.values()]


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
        mask = masks.get(f"layers.{i}.convolution.weight")
        if mask is not None and not (kept := mask.flatten(1).any(dim=1)).all():
            found[i] = ~kept
    return found


def removable_filters(architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[int, int]:
    """Convolution's layer number -> masked filters that can be taken out: those masked in its whole group.

    Heads keep theirs: each is an output.
    """
    masked = masked_filters(architecture, masks)
    removable: dict[int, int] = {}
    for group in coupled_convolutions(architecture):
        if all(i in masked and i not in architecture.heads for i in group):
            shared = int(reduce(torch.logical_and, (masked[i] for i in group)).sum())
            removable |= {i: shared for i in group if shared}
    return dict(sorted(removable.items()))


def without_filters(architecture: Architecture, removed: Mapping[int, int]) -> Architecture:
    """The layer list with so many filters less: convolution's layer number -> filters removed."""
    layers = tuple(
        replace(layer, filters=layer.filters - removed.get(i, 0)) if isinstance(layer, Convolution) else layer
        for i, layer in enumerate(architecture.layers)
    )
    return replace(architecture, layers=layers)


def stored_parameters(architecture: Architecture) -> int:
    """How many parameters a network of this layer list has; no weight is made to count them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Network(architecture).parameters())
