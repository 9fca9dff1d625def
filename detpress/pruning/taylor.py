"""What a filter is worth by the loss: by how much that would change, to first order, without the filter.

Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", arXiv:1906.10771, 2019: a
gate behind each BatchNorm, of value 1, multiplies a filter's map; the importance is the square of the loss's gradient
by the gate, a mean over batches. The gate's gradient is that of scale times scale, and of shift times shift. Filters
that go together have one gate: their gradients are added before the square.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from detpress.detector.coupling import Group
from detpress.detector.network import convolution_name
from detpress.pruning.coupled_tensors import CoupledTensors


def gate_gradients(network: nn.Module, coupled: CoupledTensors) -> Tensor:
    """(units,): the gradient by each unit's gate, from the gradients that the network's parameters have.

    Of a convolution without a BatchNorm, weights and bias are what the gate multiplies.
    """
    total = torch.zeros(len(coupled.filters))
    for i, filters in coupled.of_each(coupled.group):
        gated = network.get_submodule(f"layers.{i}.norm" if i in coupled.norms else convolution_name(i))
        for parameter in gated.parameters():
            if parameter.grad is not None:
                products = parameter.detach() * parameter.grad
                total += products.reshape(len(products), -1).sum(dim=1).cpu()[filters]
    return total


def taylor_importance(
    network: nn.Module, coupled: Sequence[CoupledTensors], losses: Iterable[Tensor]
) -> dict[Group, Tensor]:
    """Group -> (units,): the squared gradient by the unit's gate, a mean over batches; comparable between groups.

    losses: one scalar a batch, computed by the network as it is asked for. Parameters' gradients are left at None.
    """
    scores = {one.group: torch.zeros(len(one.filters)) for one in coupled}
    batches = 0
    for loss in losses:
        network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        batches += 1
        for one in coupled:
            scores[one.group] += gate_gradients(network, one).square()
    network.zero_grad()
    return {group: score / batches for group, score in scores.items()}
