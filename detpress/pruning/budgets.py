"""Which filters go, where filters of all groups are ranked together and so much may be left.

What is called a filter here is a unit of its group (see `detpress.detector.coupling`). Filters go one after the other,
the least important of all groups first, until budgets of parameters and MACs are met, as the layer list counts them.
Each group keeps at least `floor` filters; a residual block goes as a whole when a width inside it has come down to the
floor.

Two budgets at once: importance says nothing of what a filter costs, so that one budget would be met long before the
other, and filters would go on going which cost little of what is still too much. The ranking is then tilted: importance
/ ratio^tilt, where `ratio` is how many MACs go with a parameter of the group, relative to the whole network's. Of tilts
from -1 to 1 it is the one by which the fewest filters go. With one budget there is none.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.channels import without_filters
from detpress.detector.coupling import Group, of_units
from detpress.detector.removal import Block, residual_blocks, without_blocks
from detpress.errors import InputError

TILTS = 7  # how many are tried, halving the range each time

Filter = tuple[int, int]  # the place of its group, its number there


@dataclass(frozen=True)
class Size:
    """parameters: stored ones. macs: multiply-accumulates for one image."""

    parameters: int
    macs: int

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters and {self.macs:,} MACs"


@dataclass(frozen=True)
class Budget:
    """What a network may have at most; None: as it is."""

    parameters: int | None = None
    macs: int | None = None

    def met_by(self, size: Size) -> bool:
        return (self.parameters is None or size.parameters <= self.parameters) and (
            self.macs is None or size.macs <= self.macs
        )


@dataclass(frozen=True)
class Cut:
    """kept: group -> bool (units,), of the groups that lose some. blocks: those that go as a whole.

    architecture: of what is left.
    """

    kept: dict[Group, Tensor]
    blocks: tuple[Block, ...]
    architecture: Architecture


def size_of(architecture: Architecture) -> Size:
    """By what each layer says of itself."""
    rows = list(zip(architecture.layers, architecture.taken_maps, architecture.output_maps, strict=True))
    return Size(
        sum(layer.parameters(taken) for layer, taken, _ in rows),
        sum(layer.macs(taken, own) for layer, taken, own in rows),
    )


def cut_to(architecture: Architecture, importance: Mapping[Group, Tensor], budget: Budget, floor: int) -> Cut:
    """The fewest filters, by their importance, without which the budgets are met: one less, and they are not.

    importance: group -> float (units,), comparable between groups, of all groups that may lose filters.
    Raises InputError where too much is left even with `floor` filters in each of them.
    """
    filters = _Filters(architecture, importance, floor)
    smallest = size_of(filters.left(filters.order()))
    for what, most, least in (
        ("parameters", budget.parameters, smallest.parameters),
        ("macs", budget.macs, smallest.macs),
    ):
        if most is not None and least > most:
            raise InputError(
                f"{what}: {most:,} are asked for, and {least:,} stay where each layer keeps {floor} filters"
            )
    order = filters.order() if None in (budget.parameters, budget.macs) else _tilted_order(filters, budget)
    return filters.cut(order[: filters.fewest(order, budget)])


def _tilted_order(filters: "_Filters", budget: Budget) -> list[Filter]:
    """The order in which the fewest filters go."""
    low, high = -1.0, 1.0
    fewest, best = len(filters.order()) + 1, filters.order()
    for _ in range(TILTS):
        tilt = (low + high) / 2
        order = filters.order(tilt)
        for_parameters = filters.fewest(order, Budget(parameters=budget.parameters))
        for_macs = filters.fewest(order, Budget(macs=budget.macs))
        if max(for_parameters, for_macs) < fewest:
            fewest, best = max(for_parameters, for_macs), order
        low, high = (tilt, high) if for_macs > for_parameters else (low, tilt)
    return best


class _Filters:
    """Those that may go, of all groups."""

    def __init__(self, architecture: Architecture, importance: Mapping[Group, Tensor], floor: int) -> None:
        self.architecture, self.floor = architecture, floor
        self.groups = list(importance)
        whole = size_of(architecture)
        self.units = [len(values) for values in importance.values()]
        self.ratios = [self._ratio(place, whole) for place in range(len(self.groups))]
        self.blocks = residual_blocks(architecture)
        self.importance: dict[Filter, float] = {}
        for place, values in enumerate(importance.values()):
            least_first = values.argsort(stable=True).tolist()
            for number in least_first[: max(0, len(values) - floor)]:
                self.importance[place, number] = float(values[number])

    def _ratio(self, place: int, whole: Size) -> float:
        """MACs that go with a parameter of the group's filters, relative to the whole network's."""
        if self.units[place] == 1:
            return 1.0  # which none of them will lose
        less = size_of(without_filters(self.architecture, of_units({self.groups[place]: 1})))
        return (whole.macs - less.macs) / (whole.parameters - less.parameters) / (whole.macs / whole.parameters)

    def order(self, tilt: float = 0.0) -> list[Filter]:
        """The first to go first."""
        return sorted(self.importance, key=lambda one: (self.importance[one] / self.ratios[one[0]] ** tilt, one))

    def fewest(self, order: Sequence[Filter], budget: Budget) -> int:
        """How many must go, in this order."""
        return bisect_left(range(len(order)), True, key=lambda count: budget.met_by(size_of(self.left(order[:count]))))

    def left(self, gone: Sequence[Filter]) -> Architecture:
        removed, blocks = self._losses(gone)
        return without_blocks(without_filters(self.architecture, removed), blocks).architecture

    def _losses(self, gone: Sequence[Filter]) -> tuple[dict[int, int], tuple[Block, ...]]:
        """Convolution's layer number -> filters that it loses; the blocks with a width inside that is at the floor."""
        counts = Counter(place for place, _ in gone)
        removed = of_units({self.groups[place]: count for place, count in counts.items()})
        widths = self.architecture.output_channels
        at_floor = {i for place in counts for i in self.groups[place] if widths[i] - removed[i] <= self.floor}
        inside = [group for group in self.groups if at_floor.issuperset(group)]
        blocks = [block for block in self.blocks if any(set(group) <= set(block.inner) for group in inside)]
        return removed, tuple(blocks)

    def cut(self, gone: Sequence[Filter]) -> Cut:
        kept: dict[Group, Tensor] = {}
        for place, number in gone:
            group = self.groups[place]
            kept.setdefault(group, torch.ones(self.units[place], dtype=torch.bool))[number] = False
        return Cut(kept, self._losses(gone)[1], self.left(gone))
