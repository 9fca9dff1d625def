"""Smaller networks inside of a larger one: of each section so much of its width, and so many of its residual blocks.

A section is a run of layers whose maps have the same side; behind the backbone's last shortcut, the heads begin one of
their own. Of YOLOv3 these are

    layers.0    the first convolution           layers.62   stage 5, of stride 32
    layers.1    stage 1, of stride 2            layers.75   the coarse head, and the way up from it
    layers.5    stage 2, of stride 4            layers.85   the middle head, and the way up from it
    layers.12   stage 3, of stride 8            layers.97   the fine head
    layers.37   stage 4, of stride 16

`layers.12.width` 0.5 and `layers.12.blocks` 3 leave half of the filters of each convolution of stage 3, and its first
three blocks. A filter goes with those that it is coupled to, as in pruning; a group is of the section where it begins.
Which filters stay is decided once: the most important ones, so that a narrow member's filters are among those of every
wider one, as in "Once-for-All" (Cai, Gan, Wang, Zhang, Han, arXiv:1908.09791, 2020). Heads keep their outputs.
"""

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.channels import without_filters
from detpress.detector.coupling import Group, of_units
from detpress.detector.kinds import Yolo
from detpress.detector.removal import Block, residual_blocks, without_blocks
from detpress.errors import InputError
from detpress.pruning.budgets import Cut
from detpress.pruning.filter_groups import prunable_groups

Choices = Mapping[str, Any]  # label -> what is chosen


@dataclass(frozen=True)
class Section:
    """name: of its first layer. groups: of filters that can go. blocks: those that can go, in order."""

    name: str
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]


def sections(architecture: Architecture) -> list[Section]:
    """Those that have something to choose, in order."""
    sides = [given.size for given in architecture.output_maps]
    first_head = next(i for i, layer in enumerate(architecture.layers) if isinstance(layer, Yolo))
    blocks, groups = residual_blocks(architecture), prunable_groups(architecture)
    ends = [block.shortcut for block in blocks if block.shortcut < first_head]
    starts = [i for i in range(len(sides)) if i == 0 or sides[i] != sides[i - 1] or i - 1 in ends[-1:]]
    found = []
    for start, end in zip(starts, [*starts[1:], len(sides)], strict=True):
        here = range(start, end)
        own = tuple(group for group in groups if group[0] in here)
        inside = tuple(block for block in blocks if block.shortcut in here)
        if own or inside:
            found.append(Section(architecture.names[start], own, inside))
    return found


class Members:
    """All networks inside of one.

    widths: shares of the filters that a section may keep. depths: shares of its residual blocks, rounded upwards.
    choices: label -> what may be chosen, the smallest first.
    """

    def __init__(self, architecture: Architecture, widths: Sequence[float], depths: Sequence[float]) -> None:
        self.architecture, self.sections = architecture, sections(architecture)
        self.units = {group: len(filters) for group, filters in prunable_groups(architecture).items()}
        self.choices: dict[str, list[Any]] = {}
        for section in self.sections:
            if section.groups:
                self.choices[f"{section.name}.width"] = sorted(set(widths))
            if section.blocks:
                number = len(section.blocks)
                self.choices[f"{section.name}.blocks"] = sorted({math.ceil(share * number) for share in depths})
        if not self.choices:
            raise InputError("the network has neither filters nor residual blocks that can go")

    @property
    def smallest(self) -> dict[str, Any]:
        return {label: values[0] for label, values in self.choices.items()}

    def architecture_of(self, choices: Choices) -> Architecture:
        """The layer list of the member."""
        removed = of_units({group: self.units[group] - left for group, left in self._units_left(choices).items()})
        return without_blocks(without_filters(self.architecture, removed), self._blocks_gone(choices)).architecture

    def cut(self, choices: Choices, importance: Mapping[Group, Tensor]) -> Cut:
        """What goes from the whole network, so that the member is left. importance: of each group's units."""
        kept = {}
        for group, left in self._units_left(choices).items():
            order = importance[group].argsort(descending=True, stable=True)
            kept[group] = torch.zeros(len(order), dtype=torch.bool).index_fill(0, order[:left], True)
        return Cut(kept, self._blocks_gone(choices), self.architecture_of(choices))

    def _units_left(self, choices: Choices) -> dict[Group, int]:
        """Of the groups that lose some."""
        left = {
            group: max(1, round(choices[f"{section.name}.width"] * self.units[group]))
            for section in self.sections
            for group in section.groups
        }
        return {group: number for group, number in left.items() if number < self.units[group]}

    def _blocks_gone(self, choices: Choices) -> tuple[Block, ...]:
        return tuple(
            block
            for section in self.sections
            if section.blocks
            for block in section.blocks[choices[f"{section.name}.blocks"] :]
        )

    def drawn(self, within: Callable[[Architecture], bool], generator: random.Random) -> dict[str, Any]:
        """One at random; where it is too large, choices are lowered at random, as few steps as will do.

        within: where it is true of a network, it is of a smaller one. The smallest where it is true of none.
        """
        places = {label: generator.randrange(len(values)) for label, values in self.choices.items()}
        steps = [label for label, place in places.items() for _ in range(place)]
        generator.shuffle(steps)

        def lowered(count: int) -> dict[str, Any]:
            fewer = Counter(steps[:count])
            return {label: self.choices[label][place - fewer[label]] for label, place in places.items()}

        return lowered(bisect_left(range(len(steps)), True, key=lambda n: within(self.architecture_of(lowered(n)))))
