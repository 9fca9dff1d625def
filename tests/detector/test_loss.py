"""YOLOv3's loss: equal to a plain reading of its rules, object by object and cell by cell."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.boxes import decode
from detpress.errors import InputError
from detpress.training.config import TrainingConfig
from detpress.training.loss import (
    PAIRS,
    Targets,
    assign,
    overlap_with_objects,
    responsible_boxes,
    shape_iou,
    yolo_loss,
)

CONFIG = TrainingConfig(epochs=1)
SIDE = 96


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return build_architecture("yolov3", ["cat", "dog"], SIDE, width=0.03)


def random_maps(architecture: Architecture, images: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 3 * 7, SIDE // stride, SIDE // stride, generator=generator).requires_grad_()
        for stride in (32, 16, 8)
    ]


def targets_of(objects: list[tuple[int, int, tuple[float, float, float, float], bool]]) -> Targets:
    """objects: (image, label, edges, difficult)."""
    return Targets(
        torch.tensor([image for image, *_ in objects], dtype=torch.int64),
        torch.tensor([label for _, label, *_ in objects], dtype=torch.int64),
        torch.tensor([box for *_, box, _ in objects]).view(-1, 4),
        torch.tensor([difficult for *_, difficult in objects], dtype=torch.bool),
    )


OBJECTS = [
    (0, 0, (10.0, 12.0, 40.0, 60.0), False),
    (0, 1, (50.0, 20.0, 58.0, 30.0), False),
    (2, 1, (0.0, 0.0, 96.0, 96.0), False),
    (2, 0, (30.0, 30.0, 47.0, 44.0), False),
    (2, 0, (70.0, 4.0, 94.0, 30.0), True),
]


def iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / both


def giou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / both - (hull - both) / hull


def cross_entropy(logit: float, target: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -(target * math.log(probability) + (1 - target) * math.log(1 - probability))


def plain_loss(maps: list[Tensor], targets: Targets, architecture: Architecture) -> tuple[float, float, float]:
    """The same loss by loops over scales, images, anchors and cells."""
    columns = (targets.image, targets.label, targets.boxes, targets.difficult)
    objects = list(zip(*(column.tolist() for column in columns), strict=True))
    weights = [1.0] * len(objects) if targets.weight is None else targets.weight.tolist()
    anchors = [anchor for layer in architecture.yolo_layers for anchor in layer.anchors]
    owners: dict[tuple[int, int, int, int], tuple[int, list[float], float]] = {}  # image, anchor, row, column -> object
    for (image, label, box, difficult), shown in zip(objects, weights, strict=True):
        if difficult:
            continue
        width, height = box[2] - box[0], box[3] - box[1]
        fits = [iou([0, 0, width, height], [0, 0, *anchor]) for anchor in anchors]
        for i, fit in enumerate(fits):
            if fit > 0.5 or fit == max(fits):
                stride = (32, 16, 8)[i // 3]
                row, column = int((box[1] + box[3]) / 2 / stride), int((box[0] + box[2]) / 2 / stride)
                assert (image, i, row, column) not in owners, "the example is meant to have no two owners of a cell"
                owners[image, i, row, column] = label, box, shown
    box_losses, class_losses, objectness = [], [], 0.0
    for scale, (raw, weight) in enumerate(zip(maps, CONFIG.objectness_weights, strict=True)):
        stride, losses = (32, 16, 8)[scale], []
        for image in range(len(raw)):
            for anchor in range(3):
                for row in range(raw.shape[2]):
                    for column in range(raw.shape[3]):
                        x, y, w, h, known, *logits = raw[image, anchor * 7 : anchor * 7 + 7, row, column].tolist()
                        anchor_width, anchor_height = anchors[scale * 3 + anchor]
                        centre_x = (1 / (1 + math.exp(-x)) + column) * stride
                        centre_y = (1 / (1 + math.exp(-y)) + row) * stride
                        half_x, half_y = math.exp(w) * anchor_width / 2, math.exp(h) * anchor_height / 2
                        box = [centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y]
                        if (owner := owners.get((image, scale * 3 + anchor, row, column))) is not None:
                            label, wanted, shown = owner
                            reached = giou(box, wanted)
                            box_losses.append(shown * (1 - reached))
                            losses.append(shown * cross_entropy(known, max(0.0, reached)))
                            class_losses += [shown * cross_entropy(z, float(i == label)) for i, z in enumerate(logits)]
                        elif all(i != image or iou(box, b) <= CONFIG.ignore_threshold for i, _, b, _ in objects):
                            losses.append(cross_entropy(known, 0.0))
                        else:
                            losses.append(0.0)
        objectness += weight * sum(losses) / len(losses)
    return (
        CONFIG.box_weight * sum(box_losses) / len(box_losses),
        objectness,
        CONFIG.class_weight * sum(class_losses) / len(class_losses),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_what_plain_loops_give(architecture: Architecture, seed: int) -> None:
    maps, targets = random_maps(architecture, 3, seed), targets_of(OBJECTS)
    loss = yolo_loss(maps, targets, architecture, CONFIG)
    expected = plain_loss([raw.detach() for raw in maps], targets, architecture)
    found = [part.item() for part in (loss.box, loss.objectness, loss.classes)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_object_is_learnt_as_much_as_its_picture_shows(architecture: Architecture) -> None:
    maps, targets = [raw.detach() for raw in random_maps(architecture, 3, 0)], targets_of(OBJECTS)
    mixed = replace(targets, weight=torch.tensor([0.3, 1.0, 0.7, 0.25, 0.5]))
    loss = yolo_loss(maps, mixed, architecture, CONFIG)
    found = [part.item() for part in (loss.box, loss.objectness, loss.classes)]
    assert found == pytest.approx(plain_loss(maps, mixed, architecture), rel=1e-5)
    whole = yolo_loss(maps, targets, architecture, CONFIG)
    ones = yolo_loss(maps, replace(targets, weight=torch.ones(5)), architecture, CONFIG)
    assert torch.equal(ones.total, whole.total)


def test_smoothing_lowers_the_label_and_raises_the_other_classes(architecture: Architecture) -> None:
    maps, targets = [raw.detach() for raw in random_maps(architecture, 3, 0)], targets_of(OBJECTS)
    boxes = responsible_boxes(maps, targets, architecture)
    losses = []
    for raw, mine in zip(maps, boxes, strict=True):
        logits = mine.of(raw.unflatten(1, (3, 7)))[:, 5:].tolist()
        for label, pair in zip(mine.objects.label.tolist(), logits, strict=True):
            losses += [cross_entropy(z, 0.9 if i == label else 0.1) for i, z in enumerate(pair)]
    smoothed = yolo_loss(maps, targets, architecture, CONFIG.model_copy(update={"label_smoothing": 0.1}))
    assert smoothed.classes.item() == pytest.approx(CONFIG.class_weight * sum(losses) / len(losses), rel=1e-5)
    plain = yolo_loss(maps, targets, architecture, CONFIG)
    assert torch.equal(smoothed.box, plain.box)
    assert torch.equal(smoothed.objectness, plain.objectness)


def test_focal_loss_counts_what_is_known_less(architecture: Architecture) -> None:
    focal = CONFIG.model_copy(update={"objectness_loss": "focal"})
    nothing = targets_of([])
    for logit in (-4.0, 0.0, 3.0):
        maps = [torch.full_like(raw.detach(), logit) for raw in random_maps(architecture, 1, 0)]
        probability = 1 / (1 + math.exp(-logit))
        a_box = -0.75 * probability**2 * math.log(1 - probability)  # one without an object: 1 - alpha
        expected = sum(CONFIG.objectness_weights) * a_box
        found = yolo_loss(maps, nothing, architecture, focal).objectness
        assert found.item() == pytest.approx(expected, rel=1e-5)
    maps = [raw.detach() for raw in random_maps(architecture, 3, 0)]
    known, plain = (yolo_loss(maps, targets_of(OBJECTS), architecture, config) for config in (focal, CONFIG))
    assert 0 < known.objectness < plain.objectness / 2
    assert torch.equal(known.classes, plain.classes)


def test_shapes_overlap_as_if_on_one_centre() -> None:
    found = shape_iou(torch.tensor([[10.0, 20.0], [4.0, 4.0]]), torch.tensor([[10.0, 20.0], [20.0, 10.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 100 / 300], [16 / 200, 16 / 200]]))


def test_the_best_anchor_learns_an_object_however_badly_it_fits() -> None:
    objects, anchors = assign(
        targets_of([(0, 0, (0.0, 0.0, 2.0, 2.0), False), (0, 0, (0.0, 0.0, 20.0, 20.0), False)]),
        torch.tensor([[10.0, 13.0], [18.0, 18.0], [22.0, 22.0]]),
    )
    assert list(zip(objects.tolist(), anchors.tolist(), strict=True)) == [(0, 0), (1, 1), (1, 2)]


def test_overlap_is_with_objects_of_the_same_image_only() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0]]])
    targets = targets_of(
        [
            (2, 0, (0.0, 0.0, 10.0, 5.0), False),
            (0, 0, (50.0, 0.0, 60.0, 9.0), False),
            (2, 0, (0.0, 0.0, 1.0, 1.0), True),
        ]
    )
    assert overlap_with_objects(boxes, targets)[:, 0].tolist() == pytest.approx([0.0, 0.0, 0.5])


def test_overlap_is_the_same_however_many_objects_there_are() -> None:
    """More than are computed at once; the second image has none, and objects are in no order."""
    generator = torch.Generator().manual_seed(0)
    boxes, objects = (
        torch.cat([corner, corner + 30 * torch.rand(count, 2, generator=generator)], dim=1)
        for count in (3 * 4000, 90)
        for corner in [100 * torch.rand(count, 2, generator=generator)]
    )
    boxes = boxes.view(3, 4000, 4)
    assert boxes[..., 0].numel() * 45 > PAIRS
    image = torch.randint(0, 2, (90,), generator=generator) * 2
    targets = Targets(image, torch.zeros_like(image), objects, torch.zeros(90, dtype=torch.bool))
    found = overlap_with_objects(boxes, targets)
    for i in (0, 2):
        assert torch.equal(found[i], box_iou(boxes[i], objects[image == i]).amax(dim=1))
    assert not found[1].any()


def test_a_difficult_object_is_neither_learnt_nor_punished(architecture: Architecture) -> None:
    maps = [torch.zeros(1, 21, SIDE // s, SIDE // s, requires_grad=True) for s in (32, 16, 8)]
    boxes = decode([raw.detach() for raw in maps], architecture)[0][0]
    found = boxes[4]  # exactly what the coarse scale's first anchor predicts in its middle cell
    loss = yolo_loss(maps, targets_of([(0, 0, tuple(found.tolist()), True)]), architecture, CONFIG)
    assert loss.box.item() == loss.classes.item() == 0
    loss.total.backward()
    gradient = maps[0].grad
    assert gradient is not None
    assert gradient[0, 4, 1, 1] == 0
    assert gradient[0, 4, 0, 0] > 0


def test_images_without_objects_teach_that_there_is_nothing(architecture: Architecture) -> None:
    maps = random_maps(architecture, 2, seed=0)
    loss = yolo_loss(maps, targets_of([]), architecture, CONFIG)
    assert loss.box.item() == loss.classes.item() == 0
    loss.total.backward()
    for raw in maps:
        assert raw.grad is not None
        by_channel = raw.grad.view(2, 3, 7, *raw.shape[2:])
        assert (by_channel[:, :, 4] > 0).all()
        assert not by_channel[:, :, [0, 1, 2, 3, 5, 6]].any()


@pytest.mark.parametrize("box_loss", ["giou", "squared"])
def test_a_perfect_prediction_has_no_box_loss(architecture: Architecture, box_loss: str) -> None:
    maps = [torch.zeros(1, 21, SIDE // s, SIDE // s) for s in (32, 16, 8)]
    anchors = architecture.yolo_layers[0].anchors
    width, height = anchors[1]
    box = (48 - width / 2, 48 - height / 2, 48 + width / 2, 48 + height / 2)
    loss_of_box = TrainingConfig(epochs=1, box_loss=box_loss)
    targets = targets_of([(0, 1, box, False)])
    perfect = yolo_loss(only_best(maps, architecture, box), targets, architecture, loss_of_box)
    assert float(perfect.box) == pytest.approx(0, abs=1e-5)
    spoilt = [raw + 0.5 for raw in only_best(maps, architecture, box)]
    assert float(yolo_loss(spoilt, targets, architecture, loss_of_box).box) > 0.05


def only_best(maps: list[Tensor], architecture: Architecture, box: tuple[float, float, float, float]) -> list[Tensor]:
    """`maps` whose every anchor predicts `box` from the cell of its centre, which is not on a cell's edge."""
    result = [raw.clone() for raw in maps]
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for raw, layer, stride in zip(result, architecture.yolo_layers, (32, 16, 8), strict=True):
        row, column = int(centre_y / stride), int(centre_x / stride)
        offset = torch.tensor([centre_x / stride - column, centre_y / stride - row]).clamp(1e-6, 1 - 1e-6)
        for i, (width, height) in enumerate(layer.anchors):
            raw[0, 7 * i : 7 * i + 2, row, column] = offset.logit()
            raw[0, 7 * i + 2, row, column] = math.log((box[2] - box[0]) / width)
            raw[0, 7 * i + 3, row, column] = math.log((box[3] - box[1]) / height)
    return result


def test_a_scale_without_an_objectness_weight_is_refused(architecture: Architecture) -> None:
    with pytest.raises(InputError, match="objectness_weights: 1 for a network of 3 scales"):
        yolo_loss(
            random_maps(architecture, 1, 0),
            targets_of([]),
            architecture,
            TrainingConfig(epochs=1, objectness_weights=[1.0]),
        )
