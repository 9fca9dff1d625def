"""Decoding by YOLOv3's formulas, and suppression that gives what a plain loop gives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detpress.detector.architecture import Architecture, Convolution, MaxPool, Yolo, build_architecture
from detpress.detector.boxes import (
    FIRST_TRIED,
    OF_DARKNET,
    Detections,
    Suppression,
    decode,
    suppress,
)
from detpress.detector.images import Placement


def one_scale(anchors: tuple[tuple[float, float], ...], classes: int = 1) -> Architecture:
    """A map of 2 x 2 cells for an input of 64 pixels: stride 32."""
    pools = [MaxPool(2, 2)] * 5
    head = Convolution(len(anchors) * (5 + classes), 1, batch_normalize=False, activation="linear")
    return Architecture("yolov3", (*pools, head, Yolo(anchors)), tuple(f"class{i}" for i in range(classes)), 64)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def test_the_protocols_name_holds_what_is_used() -> None:
    assert str(OF_DARKNET) == "score>0.005/nms0.45/max100"
    assert str(Suppression(0.001, 0.6, 300, merged=True)) == "score>0.001/nms0.6/merged/max300"


def test_a_box_is_a_sigmoid_from_its_cell_and_an_exponential_of_its_anchor() -> None:
    raw = torch.zeros(1, 2 * 7, 2, 2)
    raw[0, 7:, 1, 0] = torch.tensor([logit(0.25), logit(0.75), math.log(2), math.log(0.5), logit(0.8), logit(0.5), -9])
    boxes, scores = decode([raw], one_scale(((4, 4), (10, 20)), classes=2))
    # second anchor, row 1, column 0: centre (0.25 * 32, 1.75 * 32), size (10 * 2, 20 / 2)
    found = 4 + 2
    assert boxes[0, found].tolist() == pytest.approx([8 - 10, 56 - 5, 8 + 10, 56 + 5], abs=1e-4)
    assert scores[0, found].tolist() == pytest.approx([0.8 * 0.5, 0.8 / (1 + math.exp(9))], rel=1e-5)
    # first anchor, row 0, column 1, all zero: the middle of its cell, the anchor's size, 0.5 * 0.5
    assert boxes[0, 1].tolist() == [48 - 2, 16 - 2, 48 + 2, 16 + 2]
    assert scores[0, 1].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny"])
def test_every_scale_covers_the_input(name: str) -> None:
    architecture = build_architecture(name, ["a", "b"], 96)
    strides = (32, 16, 8)[: len(architecture.yolo_layers)]
    boxes, scores = decode([torch.zeros(2, 21, 96 // s, 96 // s) for s in strides], architecture)
    count = sum(3 * (96 // s) ** 2 for s in strides)
    assert (tuple(boxes.shape), tuple(scores.shape)) == ((2, count, 4), (2, count, 2))
    start = 0
    for stride in strides:
        cells = 3 * (96 // stride) ** 2
        centres = (boxes[0, start : start + cells, :2] + boxes[0, start : start + cells, 2:]) / 2
        assert centres.min() == pytest.approx(stride / 2, abs=1e-4)
        assert centres.max() == pytest.approx(96 - stride / 2, abs=1e-4)
        start += cells


def test_any_logits_give_finite_boxes() -> None:
    raw = torch.full((1, 6, 2, 2), 1e30)
    boxes, scores = decode([raw], one_scale(((10, 10),)))
    assert boxes.isfinite().all()
    assert scores.eq(1).all()


def test_half_precision_maps_are_decoded_in_single_precision() -> None:
    raw = torch.linspace(-4, 4, 24).reshape(1, 6, 2, 2).half()
    architecture = one_scale(((10, 10),))
    for half, single in zip(decode([raw], architecture), decode([raw.float()], architecture), strict=True):
        assert half.dtype == torch.float32
        assert torch.equal(half, single)


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def plain_loop(boxes: Tensor, scores: Tensor) -> list[tuple[list[float], float, int]]:
    """boxes: (M, 4); scores: (M, C), of one image."""
    candidates = [
        (boxes[m].tolist(), scores[m, c].item(), c)
        for m in range(boxes.shape[0])
        for c in range(scores.shape[1])
        if scores[m, c] > OF_DARKNET.score
    ]
    kept: list[tuple[list[float], float, int]] = []
    for box, score, label in sorted(candidates, key=lambda candidate: -candidate[1]):
        if all(label != other or overlap(box, better) <= OF_DARKNET.nms for better, _, other in kept):
            kept.append((box, score, label))
        if len(kept) == OF_DARKNET.most:
            break
    return kept


def as_tuples(found: Detections) -> list[tuple[list[float], float, int]]:
    return list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True))


# whole numbers, so that overlaps are the same in float32 and float64; left and above the input, too; scores with ties
corner = st.integers(-40, 60)
side = st.integers(1, 40)
candidate = st.tuples(
    corner, corner, side, side, st.lists(st.sampled_from([0.0, 0.005, 0.25, 0.5, 1.0]), min_size=2, max_size=2)
)


@settings(deadline=None)
@given(st.lists(st.lists(candidate, min_size=6, max_size=6), min_size=1, max_size=3))
def test_is_what_a_plain_loop_finds_in_each_image(images: list[list[tuple[int, int, int, int, list[float]]]]) -> None:
    boxes = torch.tensor([[[x, y, x + w, y + h] for x, y, w, h, _ in image] for image in images]).float()
    scores = torch.tensor([[score for *_, score in image] for image in images])
    found = suppress(boxes, scores)
    assert [as_tuples(each) for each in found] == [plain_loop(*each) for each in zip(boxes, scores, strict=True)]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([4, 30, 300]))
def test_is_what_a_plain_loop_finds_among_many_candidates(seed: int, spread: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(-spread, spread, (FIRST_TRIED, 2), generator=generator)
    sizes = torch.randint(4, 12, (FIRST_TRIED, 2), generator=generator)
    boxes = torch.cat([corners, corners + sizes], dim=1).float()[None]
    scores = torch.rand(1, FIRST_TRIED, 3, generator=generator)
    assert as_tuples(suppress(boxes, scores)[0]) == plain_loop(boxes[0], scores[0])


def test_every_class_above_the_threshold_is_found_at_one_place() -> None:
    boxes = torch.tensor([[[10.0, 10, 50, 50]]])
    (found,) = suppress(boxes, torch.tensor([[[0.3, 0.005, 0.9]]]))
    assert as_tuples(found) == [([10, 10, 50, 50], pytest.approx(0.9), 2), ([10, 10, 50, 50], pytest.approx(0.3), 0)]


def test_a_box_beyond_the_edge_meets_none_of_another_class_or_image() -> None:
    # moved by one more than the largest coordinate, as batched_nms moves the next group, it would lie on the other
    beyond, inside = [-11.0, -11, -1, -1], [0.0, 0, 10, 10]
    (found,) = suppress(torch.tensor([[inside, beyond]]), torch.tensor([[[0.9, 0.0], [0.0, 0.8]]]))
    assert len(found.labels) == 2
    first, second = suppress(torch.tensor([[inside], [beyond]]), torch.full((2, 1, 1), 0.5))
    assert len(first.labels) == len(second.labels) == 1


def test_a_huge_box_in_one_image_changes_nothing_in_another() -> None:
    apart = [[10.0, 10, 11, 11], [10.4, 10, 11.4, 11]]  # IoU 0.43; the same box where float32 has whole numbers only
    boxes = torch.tensor([[[0.0, 0, 9e6, 9e6], [0, 0, 1, 1]], apart])
    assert [len(found.labels) for found in suppress(boxes, torch.full((2, 2, 1), 0.5))] == [2, 2]


def test_merged_boxes_are_the_mean_of_those_of_the_class_that_overlap_weighted_by_score() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [2, 0, 10, 10], [0, 4, 10, 14]]])
    scores = torch.tensor([[[0.75, 0.0], [0.25, 0.5], [0.125, 0.0]]])  # the third is another object
    (found,) = suppress(boxes, scores, Suppression(nms=0.6, merged=True))
    assert as_tuples(found) == [
        ([0.5, 0.0, 10.0, 10.0], 0.75, 0),
        ([2.0, 0.0, 10.0, 10.0], 0.5, 1),
        ([0.0, 4.0, 10.0, 14.0], 0.125, 0),
    ]


def test_nothing_above_the_threshold_is_nothing_found() -> None:
    (found,) = suppress(torch.tensor([[[0.0, 0, 1, 1]]]), torch.zeros(1, 1, 3))
    assert tuple(found.boxes.shape) == (0, 4)
    assert found.scores.tolist() == found.labels.tolist() == []
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_boxes_go_back_to_the_image_and_are_clipped_to_it() -> None:
    found = Detections(torch.tensor([[0.0, 16, 64, 48], [-9.0, 20, 32, 60]]), torch.ones(2), torch.zeros(2).long())
    placement = Placement(1.6, 1.6, left=0, top=16)  # an image of 40 x 20 in a square of 64
    back = found.to_image(placement, height=20, width=40)
    assert back.boxes.tolist() == [[0, 0, 40, 20], [0, 2.5, 20, 20]]
