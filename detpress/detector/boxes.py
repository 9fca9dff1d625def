"""From raw maps to boxes: decoding and non-maximum suppression, for a whole batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.images import Placement
from detpress.detector.kinds import Yolo

FIRST_TRIED = 1000  # candidates of an image; more are only tried where these do not fill it, which changes no result


@dataclass(frozen=True)
class Suppression:
    """Which candidates become detections; by default as Darknet has it where it writes results for VOC.

    score: above it. nms: IoU above which the lesser of two of one class is dropped. most: of an image, the best.
    merged: a detection's box is the mean of its own and those that it dropped, weighted by their scores.
    """

    score: float = 0.005
    nms: float = 0.45
    most: int = 100
    merged: bool = False

    def __str__(self) -> str:
        """What a protocol's name says of it."""
        return f"score>{self.score:g}/nms{self.nms:g}{'/merged' if self.merged else ''}/max{self.most}"


OF_DARKNET = Suppression()


@dataclass(frozen=True)
class Detections:
    """What was found in one image, by descending score.

    boxes: float32 (n, 4), edges x0, y0, x1, y1; scores: float32 (n,); labels: int64 (n,), class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def to_image(self, placement: Placement, height: int, width: int) -> "Detections":
        """From pixels of the network's input to pixels of the image, clipped to it."""
        boxes = placement.to_image(self.boxes)
        limit = boxes.new_tensor([width, height, width, height])
        return Detections(boxes.clamp(min=0).minimum(limit), self.scores, self.labels)


def decode(maps: Sequence[Tensor], architecture: Architecture) -> tuple[Tensor, Tensor]:
    """maps: one (N, A * (5 + C), H, W) a scale, as `Network.forward` gives them.

    Returns boxes float32 (N, M, 4), edges in pixels of the input, and scores float32 (N, M, C), the product of
    objectness and class probability. What the numbers of a map mean says its layer (`Yolo`).
    """
    scores = []
    for raw, layer in zip(maps, architecture.yolo_layers, strict=True):
        raw = layer.by_anchor(raw)
        score = raw[:, :, 4:5].sigmoid() * raw[:, :, 5:].sigmoid()
        scores.append(score.permute(0, 1, 3, 4, 2).flatten(1, 3))
    return all_boxes(maps, architecture), torch.cat(scores, dim=1)


def all_boxes(maps: Sequence[Tensor], architecture: Architecture) -> Tensor:
    """What `decode` gives without the scores: float32 (N, M, 4)."""
    boxes = []
    for raw, layer in zip(maps, architecture.yolo_layers, strict=True):
        n, stride = len(raw), architecture.stride(raw)
        boxes.append(decode_boxes(layer.by_anchor(raw), layer, stride).reshape(n, -1, 4))
    return torch.cat(boxes, dim=1)


def decode_boxes(raw: Tensor, layer: Yolo, stride: float) -> Tensor:
    """Of one scale: raw float32 (N, A, 5 + C, H, W) -> edges (N, A, H, W, 4) in pixels of the input."""
    anchors = torch.tensor(layer.anchors, device=raw.device)
    height, width = raw.shape[3:]
    rows = torch.arange(height, device=raw.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=raw.device).view(1, 1, 1, -1)
    centre_x = (layer.offsets(raw[:, :, 0]) + columns) * stride
    centre_y = (layer.offsets(raw[:, :, 1]) + rows) * stride
    half = layer.factors(raw[:, :, 2:4]) * anchors.view(1, -1, 2, 1, 1) / 2
    return torch.stack(
        [centre_x - half[:, :, 0], centre_y - half[:, :, 1], centre_x + half[:, :, 0], centre_y + half[:, :, 1]], dim=-1
    )


def suppress(boxes: Tensor, scores: Tensor, rules: Suppression = OF_DARKNET) -> list[Detections]:
    """boxes: (N, M, 4); scores: (N, M, C), as `decode` gives them.

    Every class of a box scored above the threshold is a candidate; within a class, a candidate that overlaps a better
    one by more than the rules say is dropped; the best of an image are returned. Of equal scores the earlier box, then
    the lower class, comes first.
    """
    from torchvision.ops import batched_nms  # which takes seconds

    image, box, label = (scores > rules.score).nonzero(as_tuple=True)
    order = scores[image, box, label].argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    image, box, label = image[order], box[order], label[order]  # by image, then by descending score
    candidates, confidence = boxes[image, box], scores[image, box, label]
    counts = image.bincount(minlength=len(boxes))
    rank = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    # batched_nms moves each group by the largest coordinate: none may be negative, and float32 has too few digits.
    positive, group = candidates.double() - boxes.min(), image * scores.shape[2] + label
    tried = FIRST_TRIED
    while True:  # what is kept among the best candidates is the beginning of what is kept among all
        best = (rank < tried).nonzero().squeeze(1)
        kept = best[batched_nms(positive[best], confidence[best].double(), group[best], rules.nms)].sort().values
        if ((image[kept].bincount(minlength=len(boxes)) >= rules.most) | (counts <= tried)).all():
            break
        tried *= 4
    found = []
    for i in range(len(boxes)):
        mine = kept[image[kept] == i][: rules.most]
        chosen = candidates[mine]
        if rules.merged:
            of_image = image == i
            chosen = _merged(chosen, label[mine], candidates[of_image], confidence[of_image], label[of_image], rules)
        found.append(Detections(chosen, confidence[mine], label[mine]))
    return found


def _merged(
    chosen: Tensor, chosen_labels: Tensor, candidates: Tensor, scores: Tensor, labels: Tensor, rules: Suppression
) -> Tensor:
    """Boxes (n, 4) of the chosen, each the weighted mean of the candidates (m, 4) of its class that overlap it."""
    from torchvision.ops import box_iou

    dropped = (box_iou(chosen, candidates) > rules.nms) & (chosen_labels[:, None] == labels)
    weights = dropped * scores
    own = weights.sum(dim=1, keepdim=True)
    return torch.where(own > 0, weights @ candidates / own, chosen)
