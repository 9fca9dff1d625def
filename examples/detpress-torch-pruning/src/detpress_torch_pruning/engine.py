"""Torch-Pruning at work on a detpress network.

It follows the gradients' graph of the network, finds what goes together by itself, and narrows the convolutions where
they stand. They are still called as in the network's state, so that `narrowed_network` makes a network of them again.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning as tp
from detpress.api import InputError, Network, StageError, narrowed_network
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from detpress_torch_pruning.options import PruningOptions

PIXELS = 64  # of the zeros that are sent through the network; what goes together does not depend on them
HALVINGS = 10  # of the share of filters, to meet a share of parameters

Make = Callable[..., Any]  # a pruner's class, or a call of it


def pruned(
    network: Network, importance: Any, config: "PruningOptions", gradients: "dict[str, Tensor] | None" = None
) -> Network:
    """A copy of `network` without its least important filters. gradients: by parameter, what the importance reads.

    Raises InputError where so many parameters cannot go, StageError where nothing went.
    """
    if config.sparsity is not None:
        found = _pruned(network, importance, config, config.sparsity, gradients)
    else:
        found = _with_share_of_parameters(network, importance, config, gradients)
    if size(found) == size(network):
        raise StageError("Torch-Pruning took out no filter; expected a larger share")
    return found


def _with_share_of_parameters(
    network: Network, importance: Any, config: "PruningOptions", gradients: "dict[str, Tensor] | None"
) -> Network:
    """Torch-Pruning is told a share of filters; the smallest that leaves so few parameters is searched."""
    assert config.parameters is not None
    most = size(network) * (1 - config.parameters)
    low, high = 0.0, config.at_most
    found = _pruned(network, importance, config, high, gradients)
    if size(found) > most:
        share = 1 - size(found) / size(network)
        raise InputError(f"parameters: {config.parameters:g} cannot be reached; {share:.3f} go at {high:g} of a layer")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = _pruned(network, importance, config, middle, gradients)
        if size(tried) > most:
            low = middle
        else:
            high, found = middle, tried
    return found


def _pruned(
    network: Network,
    importance: Any,
    config: "PruningOptions",
    sparsity: float,
    gradients: "dict[str, Tensor] | None",
) -> Network:
    modules = copy.deepcopy(network).requires_grad_(True)
    for name, parameter in modules.named_parameters():
        parameter.grad = None if gradients is None else gradients[name].clone()
    pruner = pruner_of(
        tp.pruner.BasePruner,
        modules,
        network,
        importance,
        pruning_ratio=sparsity,
        max_pruning_ratio=config.at_most,
        global_pruning=config.ranking == "global",
    )
    for group in pruner.step(interactive=True):
        if config.ranking == "global":
            group = _within(group, pruner, config.at_most)
        if group is not None:
            group.prune()
    return narrowed_network(modules, network.architecture).requires_grad_(False)


def _within(group: Any, pruner: Any, at_most: float) -> Any:
    """The group, or as many of its least important filters as may go, or None.

    Torch-Pruning (1.6.1) holds `max_pruning_ratio` against the width before a step, and has only one step here.
    """
    where, filters = group[0]
    width = pruner.DG.get_out_channels(where.target.module)
    most = int(at_most * width)
    if len(filters) <= most:
        return group
    if most == 0:
        return None
    every = pruner.DG.get_pruning_group(where.target.module, where.handler, list(range(width)))
    least = pruner.estimate_importance(every).argsort()[:most]
    return pruner.DG.get_pruning_group(where.target.module, where.handler, least.tolist())


def pruner_of(make: Make, modules: nn.Module, network: Network, importance: Any, **options: Any) -> Any:
    """One of Torch-Pruning's pruners of `modules`, which has the shape of `network`; heads stay whole."""
    heads = [modules.get_submodule(f"layers.{i}") for i in network.architecture.heads]
    # Its defaults for groups are dictionaries that all of its pruners would share.
    return make(
        modules,
        torch.zeros(1, 3, PIXELS, PIXELS),
        importance,
        ignored_layers=heads,
        in_channel_groups={},
        out_channel_groups={},
        **options,
    )


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
