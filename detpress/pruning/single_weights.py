"""Single weights of convolutions, as things to prune. BatchNorms, biases and heads keep all of theirs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution


def prunable_weights(architecture: Architecture) -> list[str]:
    """The parameters that hold them, by name."""
    return [
        f"layers.{i}.convolution.weight"
        for i, layer in enumerate(architecture.layers)
        if isinstance(layer, Convolution) and i not in architecture.heads
    ]


def kept_weights(network: nn.Module, architecture: Architecture, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameter name -> bool of its shape: what masks do not hold at zero."""
    kept = {}
    for name in prunable_weights(architecture):
        kept[name] = masks.get(name, torch.ones_like(network.get_parameter(name), dtype=torch.bool))
    return kept


def weight_magnitudes(network: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Parameter name -> |w|."""
    return {name: network.get_parameter(name).detach().abs() for name in prunable_weights(architecture)}
