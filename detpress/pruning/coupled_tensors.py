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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.channels import follow_channels, has_part
from detpress.detector.kinds import Convolution
from detpress.pruning.filter_groups import Group

LARGEST_FACTOR = 16.0  # 2^alpha with DepGraph's alpha of 4


@dataclass(frozen=True)
class Taken:
    """Channels of a group that a convolution takes.

    columns: of its weight, int (n,). filters: of the group, int (n,): the one that gives each column's channel.
    """

    convolution: int
    columns: Tensor
    filters: Tensor


@dataclass(frozen=True)
class CoupledTensors:
    """What goes with each of so many filters of a group. norms: those of its convolutions that have a BatchNorm."""

    group: Group
    filters: int
    norms: tuple[int, ...]
    taken: tuple[Taken, ...]


def coupled_tensors(architecture: Architecture, groups: Sequence[Group]) -> list[CoupledTensors]:
    """Of each group, in order."""
    channels = architecture.output_channels
    firsts = torch.tensor([0, *(channels[group[0]] for group in groups)]).cumsum(0)
    numbered = [torch.arange(int(first), int(last)) for first, last in itertools.pairwise(firsts)]
    own = {i: numbers for group, numbers in zip(groups, numbered, strict=True) for i in group}
    given = follow_channels(architecture, own, other=-1)
    taken: list[list[Taken]] = [[] for _ in groups]
    for i, layer in enumerate(architecture.layers):
        [incoming, *_] = layer.inputs(i)
        if isinstance(layer, Convolution) and layer.groups == 1 and incoming >= 0:
            for k, (first, last) in enumerate(zip(firsts.tolist(), firsts[1:].tolist(), strict=False)):
                columns = ((given[incoming] >= first) & (given[incoming] < last)).nonzero().flatten()
                if len(columns):
                    taken[k].append(Taken(i, columns, given[incoming][columns] - first))
    return [
        CoupledTensors(
            group, channels[group[0]], tuple(i for i in group if has_part(architecture, i, "norm")), tuple(taken[k])
        )
        for k, group in enumerate(groups)
    ]


def squares(network: nn.Module, coupled: CoupledTensors) -> Tensor:
    """Sum of squares of each coupled tensor's part that goes with each filter: (tensors, filters), differentiable."""
    found = []
    for i in coupled.group:
        found.append(network.get_parameter(f"layers.{i}.convolution.weight").square().flatten(1).sum(dim=1))
    for i in coupled.norms:
        found.append(network.get_parameter(f"layers.{i}.norm.weight").square())
    for taken in coupled.taken:
        weight = network.get_parameter(f"layers.{taken.convolution}.convolution.weight")
        columns = weight.square().sum(dim=(0, 2, 3))[taken.columns.to(weight.device)]
        found.append(columns.new_zeros(coupled.filters).index_add(0, taken.filters.to(weight.device), columns))
    return torch.stack(found)


@torch.no_grad()
def importance(network: nn.Module, coupled: Sequence[CoupledTensors]) -> dict[Group, Tensor]:
    """Group -> (filters,): the squared L2 norm, a mean over the coupled tensors, divided by the group's mean.

    Divided so, filters of all groups are ranked together.
    """
    found = {}
    for one in coupled:
        mean = squares(network, one).mean(dim=0)
        found[one.group] = mean / mean.mean().clamp(min=torch.finfo(mean.dtype).tiny)
    return found


def penalty_factors(norms: Tensor) -> Tensor:
    """DepGraph's gamma_k = 16^((max I - I_k) / (max I - min I)): from 1, the most important, to 16.

    norms: I, the L2 norms of a group's filters, (filters,). Where all are equal there is nothing to tell apart: 1.
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
    """The L1 norm of the scales of all BatchNorms whose filters can go, a scalar."""
    return torch.stack(
        [network.get_parameter(f"layers.{i}.norm.weight").abs().sum() for one in coupled for i in one.norms]
    ).sum()
