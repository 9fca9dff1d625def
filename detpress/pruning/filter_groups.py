"""Filters as things to prune: those that a residual stream adds to each other are one thing.

In

    0  Convolution(64)
    1  Convolution(32)
    2  Convolution(64)
    3  Shortcut(source=0)   adds 0 and 2

filter 7 of layers 0 and filter 7 of layers 2 are kept or go together, since each alone leaves the sum's channel 7: the
group (0, 2) has 64 units to prune, the group (1,) has 32. What else ties filters, `detpress.detector.coupling` says.
Heads keep all of theirs. What is masked so is what `nni.speedup` takes out.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.channels import masked_filters, masks_of_filters
from detpress.detector.coupling import Group, by_convolution, coupled_filters


def prunable_groups(architecture: Architecture) -> dict[Group, Tensor]:
    """Group -> int (units, filters of a unit), as `coupled_filters`, those with a head left out."""
    heads = set(architecture.heads)
    return {group: filters for group, filters in coupled_filters(architecture).items() if heads.isdisjoint(group)}


def kept_filters(architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[Group, Tensor]:
    """Group -> bool (units,): those of which not all filters are masked."""
    masked, channels = masked_filters(architecture, masks), architecture.output_channels
    kept = {}
    for group, filters in prunable_groups(architecture).items():
        every = [(~masked[i] if i in masked else torch.ones(channels[i], dtype=torch.bool)) for i in group]
        kept[group] = _of_units(filters, every).any(dim=0)
    return kept


def filter_magnitudes(network: nn.Module, groups: Mapping[Group, Tensor]) -> dict[Group, Tensor]:
    """Group -> float (units,): the mean of |w| over a filter's weights, the mean over the unit's filters."""
    found = {}
    for group, filters in groups.items():
        weights = [network.get_parameter(f"layers.{i}.convolution.weight").detach() for i in group]
        means = [weight.abs().flatten(1).mean(dim=1) for weight in weights]
        found[group] = _of_units(filters, means).mean(dim=0)
    return found


def _of_units(filters: Tensor, values: Sequence[Tensor]) -> Tensor:
    """(filters of a unit, units). values: of each of the group's convolutions, something of all its filters."""
    return torch.stack([value[each.to(value.device)] for each, value in zip(filters.T, values, strict=True)])


def on_one_scale(scores: Mapping[Group, Tensor], kept: Mapping[Group, Tensor]) -> dict[Group, Tensor]:
    """Scores divided by their group's mean over what is kept: groups whose scores are all small can be compared."""
    means = {group: score[kept[group]].mean() for group, score in scores.items()}
    return {group: score / means[group].clamp(min=torch.finfo(score.dtype).tiny) for group, score in scores.items()}


def masks_of_groups(network: nn.Module, architecture: Architecture, kept: Mapping[Group, Tensor]) -> dict[str, Tensor]:
    """Parameter name -> bool of its shape, for the groups that lose filters. See `masks_of_filters`."""
    return masks_of_filters(network, by_convolution(architecture, kept))
