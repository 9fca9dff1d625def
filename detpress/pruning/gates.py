"""Continuous sparsification: gates that are soft at first and end as 0 or 1.

Savarese, Silva, Maire, "Winning the Lottery with Continuous Sparsification", arXiv:1912.04427, 2020, by the authors'
code (lolemacs/continuous-sparsification). Every gate has a number s, s0 at first, which is learnt beside the weights:

    w * m,    m = sigmoid(beta s) / sigmoid(s0),    loss + penalty * sum of all m

beta rises from 1 to 200, so that m goes to 0 where s < 0 and to 1 / sigmoid(s0) where s > 0. At beta = 1 all gates are
1: the network starts as it was. What has s > 0 in the end is the ticket; where s0 <= 0 nothing has at first.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from detpress.detector.network import Network, filled_network
from detpress.pruning.filter_groups import Group

GateNames = dict[str, str]  # parameter's name -> name of the gates that it is multiplied by


def soft_gates(s: Tensor, beta: Tensor | float, s0: float) -> Tensor:
    return torch.sigmoid(beta * s) * ticket_scale(s0)


def ticket_scale(s0: float) -> float:
    """What the ticket's weights are multiplied by: 1 / sigmoid(s0), 2 where s0 is 0."""
    return 1 + math.exp(-s0)


def next_round(s: Tensor, beta: float, s0: float) -> Tensor:
    """Where the gates of another round start: min(beta s, s0), those that are closed far below it."""
    return (beta * s).clamp(max=s0)


def beta_of(epoch: int, epochs: int, last: float) -> float:
    """1 in the first of the epochs, `last` in the last one, times the same number from each to the next."""
    return float(last ** (epoch / (epochs - 1)))


def kept_by(s: Tensor) -> Tensor:
    """bool, of the shape of s: s > 0, and where nothing is, the largest s alone, so that something comes through."""
    kept = s > 0
    return kept if kept.any() else s == s.max()


def gates_of_weights(network: nn.Module, names: list[str], s0: float) -> tuple[dict[str, Tensor], GateNames]:
    """A gate for each weight of these parameters."""
    shapes = {name: network.get_parameter(name).shape for name in names}
    return {name: torch.full(shape, s0) for name, shape in shapes.items()}, {name: name for name in names}


def gates_of_filters(network: nn.Module, groups: list[Group], s0: float) -> tuple[dict[str, Tensor], GateNames]:
    """A gate for each filter, one for all those that a residual stream couples.

    It is on what the filter gives: on its BatchNorm's scale and shift, since BatchNorm takes back what scales the
    weights before it; where there is none, on its weights and bias.
    """
    parameters = dict(network.named_parameters())
    values, gated = {}, {}
    for group in groups:
        name = f"layers.{group[0]}"
        values[name] = torch.full((len(parameters[f"{name}.convolution.weight"]),), s0)
        for i in group:
            part = "norm" if f"layers.{i}.norm.weight" in parameters else "convolution"
            for tensor in ("weight", "bias"):
                if (parameter := f"layers.{i}.{part}.{tensor}") in parameters:
                    gated[parameter] = name
    return values, gated


class Gates(nn.Module):
    """The numbers s, by name, and beta."""

    beta: Tensor

    def __init__(self, values: Mapping[str, Tensor], s0: float) -> None:
        super().__init__()
        self.s0 = s0
        self.places = {name: place for place, name in enumerate(values)}
        self.s = nn.ParameterList(value.clone() for value in values.values())
        self.register_buffer("beta", torch.ones(()))

    def soft(self, name: str) -> Tensor:
        return soft_gates(self.s[self.places[name]], self.beta, self.s0)

    def total(self) -> Tensor:
        """The sum of all soft gates."""
        return torch.stack([soft_gates(s, self.beta, self.s0).sum() for s in self.s]).sum()

    def values(self) -> dict[str, Tensor]:
        return {name: self.s[place].detach().cpu().clone() for name, place in self.places.items()}


class Gated(nn.Module):
    """A parameter times gates. These are in a tuple: the network they are hung into does not own them."""

    def __init__(self, gates: Gates, name: str) -> None:
        super().__init__()
        self.gates, self.name = (gates,), name

    def forward(self, parameter: Tensor) -> Tensor:
        gates = self.gates[0].soft(self.name)
        return parameter * gates.view(*gates.shape, *[1] * (parameter.ndim - gates.ndim))


def hang_into(network: nn.Module, gates: Gates, gated: GateNames) -> None:
    """Multiplies the network's parameters by the gates, whenever they are used."""
    for parameter, name in gated.items():
        module, _, tensor = parameter.rpartition(".")
        parametrize.register_parametrization(network.get_submodule(module), tensor, Gated(gates, name))


def without_gates(network: Network) -> Network:
    """A network with the parameters as they are behind the gates, not multiplied by them."""
    tensors = {
        name.replace(".parametrizations.", ".").removesuffix(".original"): tensor.detach().clone()
        for name, tensor in network.state_dict().items()
    }
    return filled_network(network.architecture, network.encodings, tensors)


@torch.no_grad()
def scale_ticket(network: nn.Module, gated: GateNames, s0: float) -> None:
    """Multiplies, in place, what was gated by what an open gate is in the end."""
    for parameter in gated:
        network.get_parameter(parameter).mul_(ticket_scale(s0))
