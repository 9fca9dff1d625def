"""Which filters go together: read off the layer list, channel by channel.

A shortcut adds two maps channel by channel, so the convolutions behind both must lose the same channels. In

    0  Convolution(64)      <- with 0
    1  Convolution(32)
    2  Convolution(64)      <- with 0
    3  Shortcut(source=0)   adds 0 and 2
    4  Convolution(32)
    5  Convolution(64)      <- with 0
    6  Shortcut(source=3)   adds (0 + 2) and 5

filter 7 of 0, of 2 and of 5 are one unit: the group (0, 2, 5) has 64 of them; (1,) and (4,) have 32 of one filter each.
What is concatenated needs no group: the next convolution loses the inputs of either part. Other layers tie more:

    0  Convolution(64)
    1  Convolution(64, groups=64)           depthwise: filter 7 goes with channel 7: (0, 1), 64 units
    2  Convolution(64, groups=32)           part 7 of its 32 goes as a whole, with the channels that it takes: 14 and
                                            15 of layer 1: the group of 0 to 2 is (0, 0, 1, 1, 2, 2), of 32 units
    3  Convolution(32, groups=2)            of few wide parts each loses the same of its filters: (3, 3), 16 units
    4  Convolution(64)
    5  Route((4,), groups=2, group=1)       channels 32 to 63: each half loses the same: (4, 4), 32 units
    6  Convolution(48)
    7  Shortcut(source=5)                   adds 32 channels to the first 32 of 48: (4, 4, 6), 32 units, and (6,), 16

A group has a layer's number as often as a unit has filters of it; a convolution may have units in several groups.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Route, Shortcut
from detpress.detector.layer import Channels, Layer

Group = tuple[int, ...]  # layer numbers of convolutions, rising, one for each filter of a unit

FIXED = 0  # the channel that stands for all that must stay


def coupled_filters(architecture: Architecture) -> dict[Group, Tensor]:
    """Group -> int (units, filters of a unit): of each unit, the filters of the group's convolutions, in its order.

    Left out are filters that cannot be removed: around layers of a kind that does not tell, and where what follows a
    filter of zeros is not zero (a logistic activation) and a convolution takes it.
    """
    ties, given = _Ties(architecture), list[_Given]()
    for i, (layer, maps) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True)):
        taken = [given[k] if k >= 0 else _Given.of_images() for k in layer.inputs(i)]
        given.append(_followed(layer, layer.channels(maps), taken, ties, ties.own(i, layer.keeps_zeros)))
    units: dict[Group, list[list[int]]] = {}
    for unit in ties.units():
        units.setdefault(tuple(convolution for convolution, _ in unit), []).append([number for _, number in unit])
    return {group: torch.tensor(units[group]) for group in sorted(units)}


def coupled_convolutions(architecture: Architecture) -> list[Group]:
    """The groups of convolutions that lose the same filters, by the same numbers: each sorted, in order.

    Left out are those where filters hang together in other ways, see `coupled_filters`.
    """
    widths = architecture.output_channels
    return [group for group, filters in coupled_filters(architecture).items() if is_plain(widths, group, filters)]


def is_plain(widths: Sequence[int], group: Group, filters: Tensor) -> bool:
    """Whether unit k is filter k of each of the group's convolutions, and they have no others.

    widths: how many channels each layer gives.
    """
    every = {widths[i] for i in group} == {len(filters)}
    return every and bool((filters == torch.arange(len(filters))[:, None]).all())


def by_convolution(architecture: Architecture, kept: Mapping[Group, Tensor]) -> dict[int, Tensor]:
    """Convolution's layer number -> bool (filters,), of those that lose some. kept: group -> bool (units,)."""
    coupled, widths = coupled_filters(architecture), architecture.output_channels
    found: dict[int, Tensor] = {}
    for group, units in kept.items():
        if not units.all():
            for i, filters in zip(group, coupled[group].T, strict=True):
                everything = torch.ones(widths[i], dtype=torch.bool)
                found.setdefault(i, everything)[filters[~units]] = False
    return found


def of_units(units: Mapping[Group, int]) -> dict[int, int]:
    """Convolution's layer number -> how many filters so many units of each group are."""
    found: Counter[int] = Counter()
    for group, count in units.items():
        for i in group:
            found[i] += count
    return dict(sorted(found.items()))


def follow_channels(architecture: Architecture, own: Mapping[int, Tensor], other: int) -> list[Tensor]:
    """For each layer, what its convolutions say of the channels that it gives: (channels,), of `own`'s type.

    own: convolution's layer number -> something for each of its filters, alike for coupled filters. other: for the
    channels of the images, and of all others. Where maps are added, the first map's are told.
    """
    kind = next(iter(own.values())).dtype if own else torch.long
    given: list[Tensor] = []
    widths = architecture.output_channels
    for i, (layer, maps) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True)):
        taken = [given[k] if k >= 0 else torch.full((3,), other, dtype=kind) for k in layer.inputs(i)]
        how, channels = layer.channels(maps), widths[i]
        if how in ("beside", "part", "repeated"):
            given.append(_arranged(layer, taken, channels))
        elif how in ("added", "multiplied", "passed"):
            given.append(taken[0])
        else:
            given.append(own.get(i, torch.full((channels,), other, dtype=kind)))
    return given


class _Given(NamedTuple):
    """A map.

    channels: int (n,), the filter that each is made of, or FIXED. zero: bool (n,), whether it is where that is.
    """

    channels: Tensor
    zero: Tensor

    @classmethod
    def of_images(cls) -> "_Given":
        return cls(torch.full((3,), FIXED), torch.zeros(3, dtype=torch.bool))

    @classmethod
    def arranged(cls, layer: Layer, taken: Sequence["_Given"], channels: int) -> "_Given":
        return cls(*(_arranged(layer, each, channels) for each in zip(*taken, strict=True)))


class _Ties:
    """Filters that go together, and those that stay. All are numbered from 1, those of one convolution in a row."""

    def __init__(self, architecture: Architecture) -> None:
        layers, widths = architecture.layers, architecture.output_channels
        self.numbers = {i: range(widths[i]) for i, layer in enumerate(layers) if isinstance(layer, Convolution)}
        self.filters = [(i, number) for i, numbers in self.numbers.items() for number in numbers]
        firsts = {i: first for first, (i, number) in enumerate(self.filters, start=1) if number == 0}
        self.channels = {i: torch.arange(first, first + len(self.numbers[i])) for i, first in firsts.items()}
        self.others = {i: torch.full((n,), FIXED) for i, n in enumerate(widths)}
        self.parent = list(range(len(self.filters) + 1))

    def own(self, layer: int, zero: bool) -> _Given:
        """The map that a convolution makes; of other layers nothing is known."""
        channels = self.channels.get(layer, self.others[layer])
        return _Given(channels, torch.full(channels.shape, zero))

    def root(self, filter_: int) -> int:
        while self.parent[filter_] != filter_:
            self.parent[filter_] = filter_ = self.parent[self.parent[filter_]]
        return filter_

    def tie(self, ones: Tensor, others: Tensor) -> None:
        """Each to the one at its place."""
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            low, high = sorted((self.root(one), self.root(other)))
            self.parent[high] = low

    def tie_all(self, parts: Tensor) -> None:
        """Those of one column. parts: int (parts, channels of each)."""
        for other in parts[1:]:
            self.tie(parts[0], other)

    def fix(self, filters: Tensor) -> None:
        self.tie(torch.full_like(filters, FIXED), filters)

    def units(self) -> Iterable[list[tuple[int, int]]]:
        """Convolutions and numbers of the filters that go together, by the first of each."""
        found: dict[int, list[tuple[int, int]]] = {}
        for number, filter_ in enumerate(self.filters, start=1):
            found.setdefault(self.root(number), []).append(filter_)
        return [unit for root, unit in found.items() if root != FIXED]


def _followed(layer: Layer, how: Channels, taken: Sequence[_Given], ties: _Ties, own: _Given) -> _Given:
    """What a layer gives; what it ties together is tied. own: its map where it makes its channels."""
    match how:
        case "made":
            for before in taken:
                ties.fix(before.channels[~before.zero])
            return own
        case "filtered" if isinstance(layer, Convolution):
            [before] = taken
            incoming, filters = (channels.view(layer.groups, -1) for channels in (before.channels, own.channels))
            if layer.loses_parts:
                ties.tie_all(torch.cat([incoming, filters], dim=1).T)
            else:
                ties.fix(before.channels[~before.zero])
                ties.tie_all(incoming)
                ties.tie_all(filters)
            return own
        case "part" if isinstance(layer, Route):
            for before in taken:
                ties.tie_all(before.channels.view(layer.groups, -1))
            return _Given.arranged(layer, taken, len(own.channels))
        case "beside" | "repeated":
            return _Given.arranged(layer, taken, len(own.channels))
        case "passed" | "added" | "multiplied" if isinstance(layer, Shortcut) or _alike(taken):
            channels, zero = taken[0].channels, taken[0].zero.clone()
            for other in taken[1:]:
                both = min(len(channels), len(other.channels))
                ties.tie(channels[:both], other.channels[:both])
                if how == "added":
                    zero[:both] &= other.zero[:both]
                else:
                    zero[:both] |= other.zero[:both]
            return _Given(channels, zero & layer.keeps_zeros)
        case _:
            for before in (*taken, own):
                ties.fix(before.channels)
            return own


def _alike(taken: Sequence[_Given]) -> bool:
    return len({len(each.channels) for each in taken}) == 1


def _arranged(layer: Layer, taken: Sequence[Tensor], channels: int) -> Tensor:
    """Something of the channels that a layer takes, as they lie in the so many that it gives."""
    if isinstance(layer, Route):
        parts = layer.taken_parts([len(one) for one in taken])
        taken = [one[first:behind] for one, (first, behind) in zip(taken, parts, strict=True)]
    together = torch.cat(list(taken))
    return together.repeat(channels // len(together))
