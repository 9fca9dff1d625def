"""All tensors that lose something when a filter goes, and what a filter is worth by them.

In

    0  Convolution(64)
    1  Convolution(32)
    2  Convolution(64)
    3  Shortcut(source=0)   adds 0 and 2
    4  Convolution(8)       takes 3

filter 7 of the group (0, 2) goes with row 7 of the weights of 0 and 2, number 7 of their BatchNorms' scales, and what
is made of channel 7: column 7 of the weights of 1 and 4. (1,) goes with row 7 of 1, its scale, and column 7 of 2.

This and the importance below are DepGraph's: Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning",
arXiv:2301.12900, 2023, by its authors' code (Torch-Pruning, `GroupMagnitudeImportance`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.channels import has_part
from detpress.detector.coupling import Group, follow_channels
from detpress.detector.kinds import Convolution

LARGEST_FACTOR = 16.0  # 2^alpha with DepGraph's alpha of 4


@dataclass(frozen=True)
class Taken:
    """Channels of a group that a convolution takes.

    columns: of its weight, int (n,). units: of the group, int (n,): the one that gives each column's channel.
    """

    convolution: int
    columns: Tensor
    units: Tensor


@dataclass(frozen=True)
class CoupledTensors:
    """What goes with each unit of a group.

    filters: int (units, filters of a unit), of the group's convolutions. norms: those that have a BatchNorm.
    """

    group: Group
    filters: Tensor
    norms: tuple[int, ...]
    taken: tuple[Taken, ...]

    def of_each(self, convolutions: Sequence[int]) -> list[tuple[int, Tensor]]:
        """For each filter that a unit has of these convolutions: the layer's number, and int (units,): which filter."""
        return [(i, filters) for i, filters in zip(self.group, self.filters.T, strict=True) if i in convolutions]


def coupled_tensors(architecture: Architecture, groups: Mapping[Group, Tensor]) -> list[CoupledTensors]:
    """Of each group, in order. groups: as `coupled_filters` has them."""
    channels = architecture.output_channels
    firsts = torch.tensor([0, *map(len, groups.values())]).cumsum(0)
    own: dict[int, Tensor] = {}  # the units' numbers, those of all groups in a row
    for (group, filters), (first, last) in zip(groups.items(), itertools.pairwise(firsts.tolist()), strict=True):
        for i, numbers in zip(group, filters.T, strict=True):
            own.setdefault(i, torch.full((channels[i],), -1))[numbers] = torch.arange(first, last)
    given = follow_channels(architecture, own, other=-1)
    taken: list[list[Taken]] = [[] for _ in groups]
    for i, layer in enumerate(architecture.layers):
        [incoming, *_] = layer.inputs(i)
        if isinstance(layer, Convolution) and not layer.loses_parts and incoming >= 0:
            seen = given[incoming][: channels[incoming] // layer.groups]  # by its first part; the others see the like
            for k, (first, last) in enumerate(zip(firsts.tolist(), firsts[1:].tolist(), strict=False)):
                columns = ((seen >= first) & (seen < last)).nonzero().flatten()
                if len(columns):
                    taken[k].append(Taken(i, columns, seen[columns] - first))
    return [
        CoupledTensors(
            group, filters, tuple(i for i in dict.fromkeys(group) if has_part(architecture, i, "norm")), tuple(taken[k])
        )
        for k, (group, filters) in enumerate(groups.items())
    ]


def squares(network: nn.Module, coupled: CoupledTensors) -> Tensor:
    """Sum of squares of each coupled tensor's part that goes with each unit: (tensors, units), differentiable."""
    found = []
    for i, filters in coupled.of_each(coupled.group):
        rows = network.get_parameter(f"layers.{i}.convolution.weight").square().flatten(1).sum(dim=1)
        found.append(rows[filters.to(rows.device)])
    found += [scales.square() for scales in _scales(network, coupled)]
    for taken in coupled.taken:
        weight = network.get_parameter(f"layers.{taken.convolution}.convolution.weight")
        columns = weight.square().sum(dim=(0, 2, 3))[taken.columns.to(weight.device)]
        found.append(columns.new_zeros(len(coupled.filters)).index_add(0, taken.units.to(weight.device), columns))
    return torch.stack(found)


@torch.no_grad()
def importance(network: nn.Module, coupled: Sequence[CoupledTensors]) -> dict[Group, Tensor]:
    """Group -> (units,): the squared L2 norm, a mean over the coupled tensors, divided by the group's mean.

    Divided so, filters of all groups are ranked together.
    """
    found = {}
    for one in coupled:
        mean = squares(network, one).mean(dim=0)
        found[one.group] = mean / mean.mean().clamp(min=torch.finfo(mean.dtype).tiny)
    return found


def penalty_factors(norms: Tensor) -> Tensor:
    """DepGraph's gamma_k = 16^((max I - I_k) / (max I - min I)): from 1, the most important, to 16.

    norms: I, the L2 norms of a group's units, (units,). Where all are equal there is nothing to tell apart: 1.
    """
    span = norms.max() - norms.min()
    return LARGEST_FACTOR ** ((norms.max() - norms) / span.clamp(min=torch.finfo(norms.dtype).tiny))


def group_penalty(network: nn.Module, coupled: Sequence[CoupledTensors]) -> Tensor:
    """A scalar whose gradient by each coupled weight w of filter k is gamma_k w, gamma_k being held."""
    total: list[Tensor] = []
    for one in coupled:
        by_tensor = squares(network, one)
        factors = penalty_factors(by_tensor.detach().mean(dim=0).sqrt())
        total.append((factors * by_tensor.sum(dim=0)).sum() / 2)
    return torch.stack(total).sum()


def scale_penalty(network: nn.Module, coupled: Sequence[CoupledTensors]) -> Tensor:
    """The L1 norm of the scales of all BatchNorms whose filters can go, a scalar; 0 where there is no BatchNorm."""
    norms = [scales.abs().sum() for one in coupled for scales in _scales(network, one)]
    return torch.stack(norms).sum() if norms else torch.zeros(())


def _scales(network: nn.Module, coupled: CoupledTensors) -> list[Tensor]:
    """Of the BatchNorms, those that go with each unit: (units,), for each of its filters."""
    found = []
    for i, filters in coupled.of_each(coupled.norms):
        weight = network.get_parameter(f"layers.{i}.norm.weight")
        found.append(weight[filters.to(weight.device)])
    return found
