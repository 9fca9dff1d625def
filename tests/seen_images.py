"""Networks with random weights whose BatchNorms have seen images, as trained ones have.

Without that every map of a deep one is constant.
"""

import torch
from torch import Tensor, nn


def let_see(network: nn.Module, images: Tensor) -> None:
    """Has the statistics taken, from 0.1 of each batch's, and leaves the network in evaluation mode."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(images)
    network.eval()
