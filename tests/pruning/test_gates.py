"""Continuous sparsification's gates: their known answers."""

import copy

import pytest
import torch
from torch import Tensor

from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.pruning.filter_groups import prunable_groups
from detpress.pruning.gates import (
    GateNames,
    Gates,
    beta_of,
    gates_of_filters,
    gates_of_weights,
    hang_into,
    kept_by,
    next_round,
    soft_gates,
    ticket_scale,
    without_gates,
)
from detpress.pruning.single_weights import prunable_weights


def gates_of(model: Model, masks: str, s0: float) -> tuple[dict[str, Tensor], GateNames]:
    if masks == "filters":
        return gates_of_filters(model.network, prunable_groups(model.architecture), s0)
    return gates_of_weights(model.network, prunable_weights(model.architecture), s0)


@pytest.mark.parametrize("masks", ["filters", "weights"])
@pytest.mark.parametrize("s0", [-0.1, 0.0, 2.0])
def test_at_beta_one_the_gated_network_is_the_dense_one_and_without_gates_it_is_so_again(
    masks: str, s0: float, dense_model: Model, images: Tensor
) -> None:
    values, gated = gates_of(dense_model, masks, s0)
    network = copy.deepcopy(dense_model.network)
    assert isinstance(network, Network)
    gates = Gates(values, s0)
    hang_into(network, gates, gated)
    with torch.inference_mode():
        expected = dense_model.network(images[:2])
        for there, map_ in zip(network(images[:2]), expected, strict=True):
            torch.testing.assert_close(there, map_, rtol=0, atol=1e-5 * float(map_.abs().max()))
        gates.beta.fill_(3.0)
        assert s0 == 0 or not torch.allclose(network(images[:2])[0], expected[0], atol=1e-3)
    bare = without_gates(network).state_dict()
    assert all(torch.equal(tensor, bare[name]) for name, tensor in dense_model.network.state_dict().items())


def test_the_tickets_weights_are_scaled_by_one_over_the_sigmoid_of_s0() -> None:
    assert ticket_scale(0.0) == 2
    assert ticket_scale(-0.1) == pytest.approx(2.1052, abs=5e-5)
    open_and_shut = soft_gates(torch.tensor([0.1, -0.1]), 200.0, -0.1)
    torch.testing.assert_close(open_and_shut, torch.tensor([2.1052, 0.0]), rtol=0, atol=5e-5)


@pytest.mark.parametrize("s0", [-0.1, 0.0])
def test_nothing_is_in_the_ticket_at_the_start(s0: float, dense_model: Model) -> None:
    values, _ = gates_of(dense_model, "weights", s0)
    assert not any((s > 0).any() for s in values.values())


def test_where_no_gate_is_open_the_widest_is_kept() -> None:
    assert kept_by(torch.tensor([-0.2, -0.1, -0.3])).tolist() == [False, True, False]
    assert kept_by(torch.tensor([-0.2, 0.1, 0.0])).tolist() == [False, True, False]
    assert kept_by(torch.full((2, 2), -0.3)).sum() == 1, "also where gates had no gradient"


def test_between_rounds_open_gates_go_back_to_the_start_and_shut_ones_stay_far_below() -> None:
    found = next_round(torch.tensor([0.3, -0.01, -0.2]), beta=200.0, s0=-0.1)
    torch.testing.assert_close(found, torch.tensor([-0.1, -2.0, -40.0]))


def test_beta_rises_from_one_to_the_last_by_the_same_factor() -> None:
    assert (beta_of(0, 85, 200), beta_of(84, 85, 200)) == (1, pytest.approx(200))
    assert beta_of(41, 85, 200) / beta_of(40, 85, 200) == pytest.approx(1.0651, abs=5e-5)


def test_filters_that_a_residual_stream_couples_share_a_gate(dense_model: Model) -> None:
    values, gated = gates_of(dense_model, "filters", -0.1)
    group = max(prunable_groups(dense_model.architecture), key=len)
    norms = {f"layers.{i}.norm.{tensor}" for i in group for tensor in ("weight", "bias")}
    assert len(norms) > 4
    assert [gated[name] for name in norms] == [[(f"layers.{group[0]}", None)]] * len(norms)
    heads = dense_model.architecture.heads
    assert not any(name.startswith(f"layers.{i}.") for i in heads for name in gated)
    assert sum(s.numel() for s in values.values()) == sum(
        dense_model.architecture.output_channels[group[0]] for group in prunable_groups(dense_model.architecture)
    )
