"""What filters are worth by the loss's change, with the gates' gradients computed from gates that are there."""

import torch

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Shortcut, Yolo
from detpress.detector.network import Network
from detpress.pruning.coupled_tensors import coupled_tensors
from detpress.pruning.filter_groups import prunable_groups
from detpress.pruning.taylor import taylor_importance

LAYERS = (
    Convolution(4, 3),
    Convolution(2, 1),
    Convolution(4, 3),
    Shortcut(0),
    Convolution(3, 1, batch_normalize=False),
    Convolution(6, 1, batch_normalize=False, activation="linear"),
    Yolo(((10, 10),)),
)


def test_importance_is_the_squared_gradient_by_one_gate_for_all_filters_of_a_unit_averaged_over_batches() -> None:
    torch.manual_seed(0)
    network = Network(Architecture("any", LAYERS, ("cell",), 64)).eval()
    batches = [torch.rand(2, 3, 64, 64) for _ in range(3)]
    groups = coupled_tensors(network.architecture, prunable_groups(network.architecture))
    assert [one.group for one in groups] == [(0, 2), (1,), (4,)]
    found = taylor_importance(network, groups, (network(images)[0].square().mean() for images in batches))
    assert all(parameter.grad is None for parameter in network.parameters())

    gates = {one.group: torch.ones(len(one.filters), requires_grad=True) for one in groups}
    for group, gate in gates.items():
        for i in group:
            gated = network.get_submodule(f"layers.{i}.norm" if i != 4 else "layers.4.convolution")
            gated.register_forward_hook(lambda _, inputs, output, gate=gate: output * gate[:, None, None])
    expected = {group: torch.zeros(len(gate)) for group, gate in gates.items()}
    for images in batches:
        for group, gradient in zip(
            gates, torch.autograd.grad(network(images)[0].square().mean(), list(gates.values())), strict=True
        ):
            expected[group] += gradient.square() / len(batches)
    for group, values in expected.items():
        torch.testing.assert_close(found[group], values, rtol=1e-3, atol=1e-12)
