"""A cut carried out: masks that hold at zero what goes, and the network without it."""

import torch
from torch import Tensor

from detpress.detector.channels import masks_of_filters
from detpress.detector.coupling import by_convolution
from detpress.detector.narrowing import narrow
from detpress.detector.network import Network
from detpress.detector.removal import remove_blocks
from detpress.pruning.budgets import Cut


def masks_of_cut(network: Network, cut: Cut) -> dict[str, Tensor]:
    """Parameter name -> bool of its shape. With these at zero the network gives what it gives after the cut.

    Of a block that goes, everything inside is masked: what it would add is zero.
    """
    masks = masks_of_filters(network, by_convolution(network.architecture, cut.kept))
    for name, parameter in network.named_parameters():
        if any(int(name.split(".")[1]) in block.inner for block in cut.blocks):
            masks[name] = torch.zeros_like(parameter, dtype=torch.bool)
    return masks


def carry_out(network: Network, cut: Cut) -> Network:
    """The network without the filters and blocks of the cut."""
    return remove_blocks(narrow(network, by_convolution(network.architecture, cut.kept)), cut.blocks)
