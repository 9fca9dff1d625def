"""The moving average of a network in training: the weights that a training gives."""

import torch
from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var")  # BatchNorm's, averaged like the weights


class MovingAverage:
    """Exponential moving average of all parameters and of the statistics of BatchNorms.

    The decay grows from 0.1 to `decay`, so that short trainings forget their start. It reads tensors by their names
    and copies no module: what an engine has hung into the network stays single. Other buffers (masks, scales, the
    ranges that observers saw) are not averaged: the last ones count.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the network after one more step of the optimizer; the first time, as it is."""
        current = averaged_tensors(network)
        if self.updates == 0:
            self.tensors = {name: tensor.detach().clone() for name, tensor in current.items()}
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(list(self.tensors.values()), [current[name] for name in self.tensors], 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def give_to(self, network: nn.Module) -> None:
        """Sets the network's parameters and statistics to the average."""
        current = averaged_tensors(network)
        for name, tensor in self.tensors.items():
            current[name].copy_(tensor)

    def to(self, device: torch.device) -> None:
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}


def averaged_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The parameters, and the buffers that are statistics of BatchNorms, by name."""
    buffers = {name: tensor for name, tensor in network.named_buffers() if name.rpartition(".")[2] in STATISTICS}
    return dict(network.named_parameters()) | buffers
