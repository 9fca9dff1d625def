"""NNI's pruners on the shared detector: which filters and weights the real engine chooses."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch

from detpress.adapters.nni_prune import choose_filters, choose_weights
from detpress.detector.architecture import build_architecture
from detpress.detector.channels import MaskTargets
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.model import Model, new_model

BENCH = SimpleNamespace(log=logging.getLogger("tests.nni_prune"))  # all that is used where nothing is trained


def small(name: str, width: float) -> Model:
    return new_model(build_architecture(name, ["red", "white", "platelet"], 96, width), seed=0)


def these(removed: dict[int, int]) -> MaskTargets:
    return MaskTargets(removed, (), 0.0, 1.0)


def ranked(layers: list[int], sparsity: float, at_most: float = 0.9) -> MaskTargets:
    return MaskTargets({}, layers, sparsity, at_most)


@pytest.mark.parametrize("order", [1, 2])
def test_norm_pruners_keep_the_filters_of_the_largest_norm(order: int) -> None:
    model = small("yolov3-tiny", 0.25)
    _, kept = choose_filters(model.network, model.architecture, f"l{order}norm", these({2: 3, 12: 100}), BENCH)
    for layer, removed in {2: 3, 12: 100}.items():
        norms = model.network.get_parameter(f"layers.{layer}.convolution.weight").flatten(1).norm(p=order, dim=1)
        assert torch.equal(kept[layer], norms > norms.sort().values[removed - 1])


def test_fpgm_keeps_the_filters_that_are_farthest_from_all_others() -> None:
    model = small("yolov3-tiny", 0.25)
    _, kept = choose_filters(model.network, model.architecture, "fpgm", these({2: 3}), BENCH)
    weights = model.network.get_parameter("layers.2.convolution.weight").flatten(1)
    distances = torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    assert torch.equal(kept[2], distances > distances.sort().values[2])


def test_a_residual_stage_keeps_the_channels_of_the_largest_mean_norm() -> None:
    model = small("yolov3", 0.125)
    group = next(group for group in coupled_convolutions(model.architecture) if len(group) == 9)
    _, kept = choose_filters(model.network, model.architecture, "l1norm", these(dict.fromkeys(group, 13)), BENCH)
    weights = [model.network.get_parameter(f"layers.{i}.convolution.weight") for i in group]
    norms = torch.stack([weight.flatten(1).abs().sum(1) for weight in weights]).mean(0)
    for filters in kept.values():
        assert torch.equal(filters, norms > norms.sort().values[12])


@pytest.mark.parametrize("filters", [1, 7, 13, 31])
def test_any_number_of_filters_can_be_asked_for(filters: int) -> None:
    model = small("yolov3-tiny", 0.25)
    _, kept = choose_filters(model.network, model.architecture, "l1norm", these({6: filters}), BENCH)
    assert int((~kept[6]).sum()) == filters


def test_weights_of_the_largest_magnitude_are_kept() -> None:
    model = small("yolov3-tiny", 0.25)
    _, kept = choose_weights(model.network, model.architecture, "level", these({2: 101, 12: 7}), BENCH)
    for layer, removed in {2: 101, 12: 7}.items():
        size = model.network.get_parameter(f"layers.{layer}.convolution.weight").abs()
        assert torch.equal(kept[layer], size > size.flatten().sort().values[removed - 1])


def test_globally_the_weights_of_the_largest_magnitude_of_all_layers_are_kept() -> None:
    model = small("yolov3-tiny", 0.25)
    _, kept = choose_weights(model.network, model.architecture, "level", ranked([2, 4, 12], 0.3, 0.99), BENCH)
    sizes = {i: model.network.get_parameter(f"layers.{i}.convolution.weight").abs() for i in (2, 4, 12)}
    every = torch.cat([size.flatten() for size in sizes.values()]).sort().values
    threshold = every[int(0.3 * len(every))]
    assert all(torch.equal(kept[i], size >= threshold) for i, size in sizes.items())


def test_globally_coupled_convolutions_lose_the_same_filters_and_no_layer_more_than_it_may() -> None:
    model = small("yolov3", 0.125)
    groups = [
        group for group in coupled_convolutions(model.architecture) if not set(group) & set(model.architecture.heads)
    ]
    for layer in groups[3]:  # filters that would be the first to go
        model.network.get_parameter(f"layers.{layer}.convolution.weight").data[1:] *= 1e-3
    everyone = [i for group in groups for i in group]
    _, kept = choose_filters(model.network, model.architecture, "l1norm", ranked(everyone, 0.5, 0.75), BENCH)
    lost = {i: 1 - float(filters.float().mean()) for i, filters in kept.items()}
    assert lost[groups[3][0]] == pytest.approx(0.75)
    assert len({round(share, 3) for share in lost.values()}) > 3
    for group in groups:
        assert all(torch.equal(kept[i], kept[group[0]]) for i in group)
    weights = {i: model.network.get_parameter(f"layers.{i}.convolution.weight").numel() for i in everyone}
    masked = sum(weights[i] * lost[i] for i in everyone) / sum(weights.values())
    assert masked == pytest.approx(0.5, abs=0.02)


def test_scores_of_layers_with_more_inputs_do_not_win_by_their_size() -> None:
    model = small("yolov3-tiny", 0.25)
    _, kept = choose_filters(model.network, model.architecture, "l1norm", ranked([0, 12], 0.5), BENCH)
    before = {i: filters.clone() for i, filters in kept.items()}
    model.network.get_parameter("layers.0.convolution.weight").data *= 1e-3
    _, kept = choose_filters(model.network, model.architecture, "l1norm", ranked([0, 12], 0.5), BENCH)
    assert all(torch.equal(filters, before[i]) for i, filters in kept.items())


def test_the_network_given_stays_as_it_was() -> None:
    model = small("yolov3-tiny", 0.125)
    before = copy.deepcopy(model.network.state_dict())
    network, _ = choose_filters(model.network, model.architecture, "fpgm", these({2: 1}), BENCH)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [type(module) for module in network.modules()] == [type(module) for module in model.network.modules()]
