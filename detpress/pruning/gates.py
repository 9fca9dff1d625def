"""Continuous sparsification: gates that are soft at first and end as 0 or 1.

Savarese, Silva, Maire, "Winning the Lottery with Continuous Sparsification", arXiv:1912.04427, 2020, by the authors'
code (lolemacs/continuous-sparsification). Every gate has a number s, s0 at first, which is learnt beside the weights:

    w * m,    m = sigmoid(beta s) / sigmoid(s0),    loss + penalty * sum of all m

beta rises from 1 to 200, so that m goes to 0 where s < 0 and to 1 / sigmoid(s0) where s > 0. At beta = 1 all gates are
1: the network starts as it was. What has s > 0 in the end is the ticket; where s0 <= 0 nothing has at first.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from detpress.detector.coupling import Group
from detpress.detector.network import Network, filled_network

Rows = Tensor | None  # of a parameter, int (n,); None: it as a whole
GateNames = dict[str, list[tuple[str, Rows]]]  # parameter's name -> names of gates, and what each multiplies of it


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


def kept_by(s: Tensor, threshold: float = 0.0) -> Tensor:
    """bool, of the shape of s: s > threshold; where nothing is, one of the largest s: something comes through."""
    kept = s > threshold
    if not kept.any():
        kept.view(-1)[s.argmax()] = True
    return kept


def gates_of_weights(network: nn.Module, names: list[str], s0: float) -> tuple[dict[str, Tensor], GateNames]:
    """A gate for each weight of these parameters."""
    shapes = {name: network.get_parameter(name).shape for name in names}
    return {name: torch.full(shape, s0) for name, shape in shapes.items()}, {name: [(name, None)] for name in names}


def names_of_gates(groups: Sequence[Group]) -> dict[Group, str]:
    """That of the first convolution, where no other group begins with it."""
    firsts = Counter(group[0] for group in groups)
    return {group: f"layers.{group[0] if firsts[group[0]] == 1 else '+'.join(map(str, group))}" for group in groups}


def gates_of_filters(
    network: nn.Module, groups: Mapping[Group, Tensor], s0: float
) -> tuple[dict[str, Tensor], GateNames]:
    """A gate for each filter, one for all those that go together.

    It is on what the filter gives: on its BatchNorm's scale and shift, since BatchNorm takes back what scales the
    weights before it; where there is none, on its weights and bias.
    """
    parameters = dict(network.named_parameters())
    values: dict[str, Tensor] = {}
    gated: GateNames = {}
    for group, name in names_of_gates(list(groups)).items():
        values[name] = torch.full((len(groups[group]),), s0)
        for i, filters in zip(group, groups[group].T, strict=True):
            part = "norm" if f"layers.{i}.norm.weight" in parameters else "convolution"
            for tensor in ("weight", "bias"):
                if (parameter := f"layers.{i}.{part}.{tensor}") in parameters:
                    whole = torch.equal(filters, torch.arange(len(parameters[parameter])))
                    gated.setdefault(parameter, []).append((name, None if whole else filters))
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

    def __init__(self, gates: Gates, names: Sequence[tuple[str, Rows]]) -> None:
        super().__init__()
        self.gates, self.names = (gates,), names

    def forward(self, parameter: Tensor) -> Tensor:
        for name, rows in self.names:
            gates = self.gates[0].soft(name)
            if rows is not None:
                gates = gates.new_ones(len(parameter)).index_copy(0, rows.to(gates.device), gates)
            parameter = parameter * gates.view(*gates.shape, *[1] * (parameter.ndim - gates.ndim))
        return parameter


def hang_into(network: nn.Module, gates: Gates, gated: GateNames) -> None:
    """Multiplies the network's parameters by the gates, whenever they are used."""
    for parameter, names in gated.items():
        module, _, tensor = parameter.rpartition(".")
        parametrize.register_parametrization(network.get_submodule(module), tensor, Gated(gates, names))


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
    for parameter, names in gated.items():
        for _, rows in names:
            network.get_parameter(parameter)[slice(None) if rows is None else rows] *= ticket_scale(s0)
