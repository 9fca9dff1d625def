"""Filters as things to prune: those that a residual stream adds to each other are one thing.

In

    0  Convolution(64)
    1  Convolution(32)
    2  Convolution(64)
    3  Shortcut(source=0)   adds 0 and 2

filter 7 of layers 0 and filter 7 of layers 2 are kept or go together, since each alone leaves the sum's channel 7: the
group (0, 2) has 64 filters to prune, the group (1,) has 32. Heads keep all of theirs. What is masked so is what
`nni.speedup` takes out.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.channels import coupled_convolutions, masked_filters, masks_of_filters

Group = tuple[int, ...]  # layer numbers of convolutions


def prunable_groups(architecture: Architecture) -> list[Group]:
    """Groups of convolutions that lose the same filters, those with a head left out."""
    heads = set(architecture.heads)
    return [group for group in coupled_convolutions(architecture) if heads.isdisjoint(group)]


def kept_filters(architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[Group, Tensor]:
    """Group -> bool (filters,): those that are not masked in all of its convolutions."""
    masked, channels = masked_filters(architecture, masks), architecture.output_channels
    kept = {}
    for group in prunable_groups(architecture):
        everything = torch.ones(channels[group[0]], dtype=torch.bool)
        kept[group] = torch.stack([~masked[i] if i in masked else everything for i in group]).any(dim=0)
    return kept


def filter_magnitudes(network: nn.Module, groups: Sequence[Group]) -> dict[Group, Tensor]:
    """Group -> float (filters,): the mean of |w| over a filter's weights, the mean over the group's convolutions."""
    found = {}
    for group in groups:
        weights = [network.get_parameter(f"layers.{i}.convolution.weight").detach() for i in group]
        found[group] = torch.stack([weight.abs().flatten(1).mean(dim=1) for weight in weights]).mean(dim=0)
    return found


def on_one_scale(scores: Mapping[Group, Tensor], kept: Mapping[Group, Tensor]) -> dict[Group, Tensor]:
    """Scores divided by their group's mean over what is kept: groups whose scores are all small can be compared."""
    means = {group: score[kept[group]].mean() for group, score in scores.items()}
    return {group: score / means[group].clamp(min=torch.finfo(score.dtype).tiny) for group, score in scores.items()}


def masks_of_groups(network: nn.Module, kept: Mapping[Group, Tensor]) -> dict[str, Tensor]:
    """Parameter name -> bool of its shape, for the groups that lose filters. See `masks_of_filters`."""
    losing = {i: filters for group, filters in kept.items() if not filters.all() for i in group}
    return masks_of_filters(network, losing)
