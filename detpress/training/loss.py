"""YOLOv3's loss: boxes, objectness and classes, for a whole batch at once.

Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv:1804.02767, section 2: logistic objectness and class
predictions, one anchor box responsible for each object, and no objectness loss for boxes that overlap an object by
more than a threshold without being responsible for it.

What differs from the paper, in favour of short trainings:

- an object is also learnt by every other anchor whose shape has an IoU above 0.5 with it;
- boxes are learnt by GIoU (Rezatofighi et al., arXiv:1902.09630) unless the paper's squared error is asked for;
- an object's objectness target is the GIoU that its box has reached, at least 0, and not 1;
- objectness is averaged over cells and weighted by scale, boxes and classes are averaged over responsible boxes.

Two options are off by default. Focal loss on the objectness (Lin et al., "Focal Loss for Dense Object Detection",
arXiv:1708.02002, 2017) has the paper's alpha and gamma, but is averaged over all boxes, and the heads start without a
prior unless `train.scratch` is told one; YOLOv3's report says that it lost two points by it. Label smoothing is that of
Zhang et al., "Bag of Freebies for Training Object Detection Neural Networks", arXiv:1902.04103, 2019, who have
min(1/classes, 1/40).

Where pictures are mixed (`detpress.training.augment`), each loss of a responsible box is multiplied by how much of its
object is shown, as in gluon-cv's code of that paper; sums are divided by the same numbers as ever.

Objects marked difficult are not learnt; boxes that overlap them are ignored, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.architecture import Architecture
from detpress.detector.boxes import all_boxes
from detpress.detector.kinds import Yolo
from detpress.errors import InputError
from detpress.training.config import TrainingConfig

VERSION = 1  # raised when the same maps and objects give another loss: it enters every stage's key
PAIRS = 2**17  # of boxes and objects whose overlap is computed at once: 0.5 MB a number
POSITIVE_IOU = 0.5  # of shapes: an anchor above it learns an object, besides the best one


@dataclass(frozen=True)
class Targets:
    """The objects of a batch.

    image: int64 (T,), index in the batch. label: int64 (T,). boxes: float32 (T, 4), edges in pixels of the input.
    difficult: bool (T,). weight: float32 (T,), how much of each object its picture shows, where pictures are mixed.
    """

    image: Tensor
    label: Tensor
    boxes: Tensor
    difficult: Tensor
    weight: Tensor | None = None

    def to(self, device: torch.device) -> "Targets":
        weight = None if self.weight is None else self.weight.to(device)
        image, label, boxes, difficult = (
            part.to(device) for part in (self.image, self.label, self.boxes, self.difficult)
        )
        return Targets(image, label, boxes, difficult, weight)

    def take(self, which: Tensor) -> "Targets":
        """which: bool (T,), or indices int64 (P,); the objects so chosen."""
        weight = None if self.weight is None else self.weight[which]
        return Targets(self.image[which], self.label[which], self.boxes[which], self.difficult[which], weight)


@dataclass(frozen=True)
class Loss:
    """The three parts, already weighted: float32 scalars."""

    box: Tensor
    objectness: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        return self.box + self.objectness + self.classes


def shape_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of boxes (T, 2) and anchors (A, 2), both width and height, laid on the same centre: (T, A)."""
    smaller = torch.minimum(sizes[:, None], anchors[None]).prod(dim=2)
    return smaller / (sizes.prod(dim=1)[:, None] + anchors.prod(dim=1)[None] - smaller)


def assign(targets: Targets, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Which anchors learn which objects.

    anchors: (A, 2), those of all scales. Returns pairs as two int64 (P,): the object's and the anchor's index.
    """
    overlap = shape_iou(targets.boxes[:, 2:] - targets.boxes[:, :2], anchors)
    responsible = overlap > POSITIVE_IOU
    if len(overlap):
        responsible.scatter_(1, overlap.argmax(dim=1, keepdim=True), True)
    objects, chosen = responsible.nonzero(as_tuple=True)
    return objects, chosen


@dataclass(frozen=True)
class Responsible:
    """The boxes of one scale that learn an object.

    anchor, row, column: int64 (P,). size: float32 (P, 2), the anchor's, in pixels of the input. objects: P of them,
    whose `image` is the box's.
    """

    anchor: Tensor
    row: Tensor
    column: Tensor
    size: Tensor
    objects: Targets

    def of(self, by_anchor: Tensor) -> Tensor:
        """by_anchor: (N, A, 5 + C, H, W), the map with its anchors apart. What it says of these boxes: (P, 5 + C)."""
        return by_anchor[self.objects.image, self.anchor, :, self.row, self.column]


def responsible_boxes(maps: Sequence[Tensor], targets: Targets, architecture: Architecture) -> list[Responsible]:
    """Of each scale. maps: those of `yolo_loss`, of which the sizes alone count."""
    scales = architecture.yolo_layers
    anchors = maps[0].new_tensor([anchor for layer in scales for anchor in layer.anchors], dtype=torch.float32)
    learnt = targets.take(~targets.difficult)
    objects, chosen = assign(learnt, anchors)
    found = []
    first_anchor = 0
    for raw, layer in zip(maps, scales, strict=True):
        height, width = raw.shape[2:]
        here = (chosen >= first_anchor) & (chosen < first_anchor + len(layer.anchors))
        mine = learnt.take(objects[here])
        centre = (mine.boxes[:, :2] + mine.boxes[:, 2:]) / 2 / architecture.stride(raw)
        column = centre[:, 0].long().clamp(0, width - 1)
        row = centre[:, 1].long().clamp(0, height - 1)
        found.append(Responsible(chosen[here] - first_anchor, row, column, anchors[chosen[here]], mine))
        first_anchor += len(layer.anchors)
    return found


@torch.no_grad()
def overlap_with_objects(boxes: Tensor, targets: Targets) -> Tensor:
    """boxes: (N, M, 4). The highest IoU of each with an object of its image: (N, M), 0 where there is none.

    Some objects of every image at a time, so that what is computed of them stays in a processor's cache.
    """
    found = boxes.new_zeros(boxes.shape[:2])
    if not len(targets.image):
        return found
    counts = torch.bincount(targets.image, minlength=len(boxes))
    order = torch.argsort(targets.image, stable=True)
    place = torch.arange(len(order), device=boxes.device) - (counts.cumsum(0) - counts)[targets.image[order]]
    padded = boxes.new_zeros(4, len(boxes), int(counts.max()))  # boxes without area overlap nothing
    padded[:, targets.image[order], place] = targets.boxes[order].T
    left, top, right, bottom = boxes.permute(2, 0, 1).contiguous()[:, :, None]
    area = (right - left) * (bottom - top)
    at_once = max(1, PAIRS // found.numel())
    for first in range(0, padded.shape[2], at_once):
        x0, y0, x1, y1 = padded[:, :, first : first + at_once, None]
        both = torch.minimum(right, x1).sub_(torch.maximum(left, x0)).clamp_(min=0)
        both.mul_(torch.minimum(bottom, y1).sub_(torch.maximum(top, y0)).clamp_(min=0))
        either = (area + (x1 - x0) * (y1 - y0)).sub_(both).clamp_(min=1e-9)
        found = torch.maximum(found, both.div_(either).amax(dim=1))
    return found


def yolo_loss(maps: Sequence[Tensor], targets: Targets, architecture: Architecture, config: TrainingConfig) -> Loss:
    """maps: one (N, A * (5 + C), H, W) a scale, as `Network.forward` gives them.

    Raises InputError where there are fewer objectness weights than scales.
    """
    scales = architecture.yolo_layers
    weights = weights_of_scales(config, architecture)
    responsible = responsible_boxes(maps, targets, architecture)
    with torch.no_grad():
        covered = overlap_with_objects(all_boxes(maps, architecture), targets) > config.ignore_threshold
    box_losses, class_losses = [], []
    objectness = maps[0].new_zeros((), dtype=torch.float32)
    first_box = 0
    for raw, layer, boxes, weight in zip(maps, scales, responsible, weights, strict=True):
        n, _, height, width = raw.shape
        count = len(layer.anchors)
        mine = boxes.objects
        stride = architecture.stride(raw)
        raw = layer.by_anchor(raw)
        predicted = boxes.of(raw)
        cell = torch.stack([boxes.column, boxes.row], dim=1)
        box_loss, reached = _box_loss(layer, predicted, mine.boxes, cell, boxes.size, stride, config)
        smoothing = config.label_smoothing
        wanted = functional.one_hot(mine.label, predicted.shape[1] - 5).float() * (1 - 2 * smoothing) + smoothing
        class_loss = functional.binary_cross_entropy_with_logits(predicted[:, 5:], wanted, reduction="none")
        if mine.weight is not None:
            box_loss, class_loss = box_loss * mine.weight, class_loss * mine.weight[:, None]
        box_losses.append(box_loss)
        class_losses.append(class_loss)
        target = raw.new_zeros(n, count, height, width)
        target[mine.image, boxes.anchor, boxes.row, boxes.column] = reached
        here = covered[:, first_box : first_box + count * height * width].reshape(n, count, height, width)
        counts = (~here).to(raw.dtype)
        counts[mine.image, boxes.anchor, boxes.row, boxes.column] = 1.0 if mine.weight is None else mine.weight
        objectness = objectness + weight * (_objectness_loss(raw[:, :, 4], target, config) * counts).mean()
        first_box += count * height * width
    return Loss(
        config.box_weight * _mean(torch.cat(box_losses)),
        objectness,
        config.class_weight * _mean(torch.cat(class_losses)),
    )


def weights_of_scales(config: TrainingConfig, architecture: Architecture) -> list[float]:
    """Of the objectness loss of each scale, in the network's order. Raises InputError where there are fewer."""
    weights, order = config.objectness_weights, architecture.coarse_to_fine
    if len(weights) < len(order):
        raise InputError(f"objectness_weights: {len(weights)} for a network of {len(order)} scales")
    return [weights[place] for place in order]


def encoded(layer: Yolo, boxes: Tensor, cell: Tensor, anchors: Tensor, stride: float) -> Tensor:
    """Boxes (P, 4) as a network predicts them, (P, 4): the centre's place in its cell, and what `given` says of sizes.

    cell: (P, 2) column and row; anchors: (P, 2) pixels.
    """
    offset = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride - cell).clamp(0, 1)
    return torch.cat([offset, layer.of_factors((boxes[:, 2:] - boxes[:, :2]) / anchors)], dim=1)


def given(layer: Yolo, predicted: Tensor) -> Tensor:
    """What a network predicts of boxes, (P, 5 + C), to be compared with `encoded`: (P, 4)."""
    return torch.cat([layer.offsets(predicted[:, :2]), predicted[:, 2:4]], dim=1)


def _objectness_loss(logits: Tensor, target: Tensor, config: TrainingConfig) -> Tensor:
    """Of each box: as `logits` and `target`, which have one shape."""
    if config.objectness_loss == "focal":
        from torchvision.ops import sigmoid_focal_loss

        focal: Tensor = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0)
        return focal
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _box_loss(
    layer: Yolo,
    predicted: Tensor,
    boxes: Tensor,
    cell: Tensor,
    anchors: Tensor,
    stride: float,
    config: TrainingConfig,
) -> tuple[Tensor, Tensor]:
    """The loss of each responsible box (P,), and the GIoU it has reached (P,), at least 0 and without gradient.

    predicted: (P, 5 + C) logits; boxes: (P, 4) edges; cell: (P, 2) column and row; anchors: (P, 2).
    """
    from torchvision.ops import generalized_box_iou_loss

    centre = (layer.offsets(predicted[:, :2]) + cell) * stride
    half = layer.factors(predicted[:, 2:4]) * anchors / 2
    giou_loss = generalized_box_iou_loss(torch.cat([centre - half, centre + half], dim=1), boxes)
    reached = (1 - giou_loss.detach()).clamp(min=0)
    if config.box_loss == "giou":
        return giou_loss, reached
    wanted = encoded(layer, boxes, cell, anchors, stride)
    return ((given(layer, predicted) - wanted) ** 2).sum(dim=1), reached


def _mean(losses: Tensor) -> Tensor:
    """The mean; 0, with a gradient, where no box is responsible for anything."""
    return losses.mean() if losses.numel() else losses.sum()
