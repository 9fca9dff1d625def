"""Filters that are added to each other are scored, counted and masked as one."""

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.channels import removable_filters
from detpress.detector.kinds import Convolution, Shortcut, Yolo
from detpress.detector.model import new_model
from detpress.pruning.filter_groups import (
    filter_magnitudes,
    kept_filters,
    masks_of_groups,
    on_one_scale,
    prunable_groups,
)
from detpress.pruning.selection import Ranking, left_after, select

HEAD = (Convolution(18, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10), (20, 20), (30, 30))))


@pytest.fixture(scope="module")
def residual() -> Architecture:
    layers = (Convolution(8, 3), Convolution(4, 1), Convolution(8, 3), Shortcut(0), Convolution(16, 3, stride=2))
    return Architecture("yolov3", (*layers, *HEAD), ("cell",), 64)


def test_heads_are_no_group(residual: Architecture) -> None:
    assert list(prunable_groups(residual)) == [(0, 2), (1,), (4,)]
    yolov3 = build_architecture("yolov3", ["cell"], 64, width=0.0625)
    assert not set(yolov3.heads) & {i for group in prunable_groups(yolov3) for i in group}


def test_a_groups_score_is_the_mean_over_its_convolutions(residual: Architecture) -> None:
    network = new_model(residual, seed=0).network
    scores = filter_magnitudes(network, prunable_groups(residual))
    one, other = (network.get_parameter(f"layers.{i}.convolution.weight").detach()[3].abs().mean() for i in (0, 2))
    assert scores[0, 2][3] == pytest.approx(float(one + other) / 2)
    assert [len(score) for score in scores.values()] == [8, 4, 16]
    kept = kept_filters(residual, {})
    kept[4,][:8] = False
    relative = on_one_scale(scores, kept)
    assert float(relative[0, 2].mean()) == pytest.approx(1)
    assert float(relative[4,][8:].mean()) == pytest.approx(1)


@pytest.mark.parametrize("ranking", ["uniform", "global"])
def test_the_number_that_is_said_can_be_taken_out(residual: Architecture, ranking: Ranking) -> None:
    network = new_model(residual, seed=0).network
    kept: dict[tuple[int, ...], Tensor] = kept_filters(residual, {})
    scores = on_one_scale(filter_magnitudes(network, prunable_groups(residual)), kept)
    kept = select(scores, kept, 0.5, ranking, at_least=1)
    assert sum(int(mask.sum()) for mask in kept.values()) == left_after(28, 0.5)
    masks = masks_of_groups(network, residual, kept)
    removed = removable_filters(residual, masks)
    assert removed == {i: int((~mask).sum()) for group, mask in kept.items() for i in group if not mask.all()}
    again = kept_filters(residual, masks)
    assert all(torch.equal(again[group], kept[group]) for group in kept)
    assert masks["layers.0.norm.bias"].tolist() == kept[0, 2].tolist() == masks["layers.2.norm.weight"].tolist()
