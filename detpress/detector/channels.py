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
next convolution loses the inputs of either part. A depthwise convolution is of one group with what it takes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, weight_name, without_memory


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


@dataclass(frozen=True)
class _Part:
    """Channels of a map that one convolution gives.

    convolution: its layer number; None for the images. zero: where it gives zeros, so are they here.
    """

    convolution: int | None
    channels: int
    zero: bool


class _Groups:
    """Convolutions that lose the same filters, and those that keep all of theirs."""

    def __init__(self, architecture: Architecture) -> None:
        self.parent = list(range(len(architecture.layers)))
        self.fixed: set[int] = set()

    def root(self, convolution: int) -> int:
        while self.parent[convolution] != convolution:
            convolution = self.parent[convolution]
        return convolution

    def join(self, one: int | None, other: int | None) -> None:
        if one is None or other is None:
            self.fix(one, other)
        else:
            low, high = sorted((self.root(one), self.root(other)))
            self.parent[high] = low

    def fix(self, *convolutions: int | None) -> None:
        self.fixed.update(convolution for convolution in convolutions if convolution is not None)


def coupled_convolutions(architecture: Architecture) -> list[tuple[int, ...]]:
    """Groups of convolutions whose filters are pruned alike, each sorted, in the order of their first members.

    Left out are those whose filters cannot be removed: of grouped convolutions that are not depthwise and what these
    take, where maps are added that were concatenated in different ways, around layers of a kind that does not tell, and
    where what follows a filter of zeros is not zero (a logistic activation) and a convolution takes it.
    """
    groups, channels = _Groups(architecture), architecture.output_channels
    given: list[list[_Part]] = []  # by each layer: its channels, in order
    for i, (layer, maps) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True)):
        taken = [given[k] if k >= 0 else [_Part(None, 3, False)] for k in layer.inputs(i)]
        own = _Part(i, channels[i], layer.keeps_zeros)
        match layer.channels(maps):
            case "made":
                groups.fix(*(part.convolution for parts in taken for part in parts if not part.zero))
                groups.fix(None if isinstance(layer, Convolution) else i)
                given.append([own])
            case "beside":
                given.append([part for parts in taken for part in parts])
            case "added" | "multiplied" | "passed" as how:
                parts = _together(taken, all if how == "added" else any, groups)
                given.append([replace(part, zero=part.zero and layer.keeps_zeros) for part in parts])
            case "filtered" if isinstance(layer, Convolution) and len(taken[0]) == 1:
                groups.join(i, taken[0][0].convolution)
                given.append([own])
            case _:
                groups.fix(i, *(part.convolution for parts in taken for part in parts))
                given.append([own])
    fixed = {groups.root(convolution) for convolution in groups.fixed}
    members: dict[int, list[int]] = {}
    for i, layer in enumerate(architecture.layers):
        if isinstance(layer, Convolution) and groups.root(i) not in fixed:
            members.setdefault(groups.root(i), []).append(i)
    return [tuple(group) for group in members.values()]


def _together(taken: Sequence[list[_Part]], zero: Callable[[Iterable[bool]], bool], groups: _Groups) -> list[_Part]:
    """Channel by channel, of one map or several."""
    first, *others = taken
    for other in others:
        if [part.channels for part in first] != [part.channels for part in other]:
            groups.fix(*(part.convolution for parts in taken for part in parts))
            return first
        for one, two in zip(first, other, strict=True):
            groups.join(one.convolution, two.convolution)
    return [replace(parts[0], zero=zero(part.zero for part in parts)) for parts in zip(*taken, strict=True)]


def follow_channels(architecture: Architecture, own: Mapping[int, Tensor], other: int) -> list[Tensor]:
    """For each layer, what its convolutions say of the channels that it gives: (channels,), of `own`'s type.

    own: convolution's layer number -> something for each of its filters, alike for coupled convolutions. other: for the
    channels of the images, and of all others. Where maps are added, the first map's are told.
    """
    kind = next(iter(own.values())).dtype if own else torch.long
    given: list[Tensor] = []
    for i, (layer, maps) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True)):
        taken = [given[k] if k >= 0 else torch.full((3,), other, dtype=kind) for k in layer.inputs(i)]
        how = layer.channels(maps)
        if how == "beside":
            given.append(torch.cat(taken))
        elif how in ("added", "multiplied", "passed"):
            given.append(taken[0])
        else:
            given.append(own.get(i, torch.full((architecture.output_channels[i],), other, dtype=kind)))
    return given


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
    """Convolution's layer number -> bool (filters,), False where a filter is masked in its whole group.

    Heads keep theirs: each is an output. Layers that keep all are left out.
    """
    masked = masked_filters(architecture, masks)
    kept: dict[int, Tensor] = {}
    for group in coupled_convolutions(architecture):
        if all(i in masked and i not in architecture.heads for i in group):
            shared = reduce(torch.logical_and, (masked[i] for i in group))
            if shared.any():
                kept |= dict.fromkeys(group, ~shared)
    return dict(sorted(kept.items()))


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
