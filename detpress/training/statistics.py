"""The means and variances that a network's BatchNorms normalise by, from images instead of from a training."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def statistics_of_batches(network: nn.Module) -> Iterator[None]:
    """Every BatchNorm normalises by the batch's statistics meanwhile, as in training, so that those behind it see what
    they will see; afterwards it has the mean over batches of each batch's own mean and variance.
    """
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's word for the plain mean over all batches
        norm.train()
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@torch.no_grad()
def with_statistics_of(
    network: nn.Module, images: Tensor, batch_size: int = 16, device: torch.device | str = "cpu"
) -> nn.Module:
    """A copy of the network whose BatchNorms have the mean over batches of each batch's own mean and variance.

    images: float32 (N, 3, S, S) in [0, 1], cut into batches that are as equal as can be. device: where it is computed.
    Weights stay.
    """
    found = copy.deepcopy(network).to(device).eval()
    with statistics_of_batches(found):
        for batch in images.tensor_split(-(-len(images) // batch_size)):
            found(batch.to(device))
    return found.cpu()
