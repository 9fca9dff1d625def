"""What goes with a filter, and DepGraph's numbers of it."""

import pytest
import torch
from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Route, Shortcut, Upsample, Yolo
from detpress.detector.network import Network
from detpress.pruning.coupled_tensors import (
    coupled_tensors,
    group_penalty,
    importance,
    penalty_factors,
    scale_penalty,
)
from detpress.pruning.filter_groups import prunable_groups

LAYERS = (
    Convolution(4, 3),
    Convolution(2, 1),
    Convolution(4, 3),
    Shortcut(0),
    Upsample(),
    Convolution(2, 3, stride=2),
    Route((5, 3)),
    Convolution(6, 1, batch_normalize=False, activation="linear"),
    Yolo(((10, 10),)),
)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = Network(Architecture("any", LAYERS, ("cell",), 64))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def test_what_goes_with_a_filter_is_its_rows_its_scales_and_the_columns_of_what_takes_it(network: nn.Module) -> None:
    architecture = Architecture("any", LAYERS, ("cell",), 64)
    stream, inner, last = coupled_tensors(architecture, prunable_groups(architecture))
    assert (stream.group, stream.norms, inner.group, last.group) == ((0, 2), (0, 2), (1,), (5,))
    assert [taken.convolution for taken in stream.taken] == [1, 5, 7]
    assert stream.taken[2].columns.tolist() == [2, 3, 4, 5], "behind the two of layer 5"
    assert stream.taken[2].units.tolist() == [0, 1, 2, 3]
    assert [(taken.convolution, taken.columns.tolist()) for taken in last.taken] == [(7, [0, 1])]


def test_importance_is_the_squared_norm_averaged_over_tensors_and_divided_by_the_groups_mean(
    network: nn.Module,
) -> None:
    architecture = Architecture("any", LAYERS, ("cell",), 64)
    found = importance(network, coupled_tensors(architecture, prunable_groups(architecture)))

    def weight(i: int, part: str = "convolution") -> torch.Tensor:
        return network.get_parameter(f"layers.{i}.{part}.weight").detach()

    by_hand = []
    for k in range(4):
        parts = [weight(0)[k], weight(2)[k], weight(0, "norm")[k], weight(2, "norm")[k]]
        parts += [weight(1)[:, k], weight(5)[:, k], weight(7)[:, 2 + k]]
        by_hand.append(sum(float(part.square().sum()) for part in parts) / 7)
    expected = torch.tensor(by_hand) / (sum(by_hand) / 4)
    torch.testing.assert_close(found[(0, 2)], expected)
    assert all(float(values.mean()) == pytest.approx(1) for values in found.values())


def test_the_most_important_filter_is_penalised_by_one_and_the_least_by_sixteen() -> None:
    torch.testing.assert_close(penalty_factors(torch.tensor([1.0, 3.0, 2.0])), torch.tensor([16.0, 1.0, 4.0]))
    assert penalty_factors(torch.ones(3)).tolist() == [1, 1, 1]


def test_the_penalties_gradient_is_gamma_times_the_weight(network: nn.Module) -> None:
    architecture = Architecture("any", LAYERS, ("cell",), 64)
    groups = coupled_tensors(architecture, prunable_groups(architecture))
    group_penalty(network, groups).backward()
    scale = network.get_parameter("layers.5.norm.weight")
    norms = importance(network, groups)[(5,)].sqrt()
    torch.testing.assert_close(scale.grad, penalty_factors(norms) * scale.detach())
    head = network.get_parameter("layers.7.convolution.weight")
    assert head.grad is not None
    torch.testing.assert_close(head.grad[:, 0], penalty_factors(norms)[0] * head.detach()[:, 0])
    assert network.get_parameter("layers.7.convolution.bias").grad is None


def test_slimming_is_the_sum_of_the_scales_magnitudes(network: nn.Module) -> None:
    architecture = Architecture("any", LAYERS, ("cell",), 64)
    groups = coupled_tensors(architecture, prunable_groups(architecture))
    by_hand = sum(float(m.weight.detach().abs().sum()) for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert float(scale_penalty(network, groups).detach()) == pytest.approx(by_hand)


def test_where_no_filter_has_a_scale_slimming_costs_nothing(network: nn.Module) -> None:
    assert float(scale_penalty(network, [])) == 0
