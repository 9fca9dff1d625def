"""From raw maps to boxes: decoding and non-maximum suppression, for a whole batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detpress.detector.architecture import Architecture
from detpress.detector.images import Placement

SCORE_THRESHOLD = 0.005  # Darknet's when it writes results for VOC
NMS_IOU = 0.45  # Darknet's, too
MAX_DETECTIONS = 100  # an image, unless a recipe or a command says otherwise
FIRST_TRIED = 1000  # candidates of an image; more are only tried where these do not fill it, which changes no result


def decoding_rules(max_detections: int) -> str:
    """What a protocol's name says of how boxes are chosen."""
    return f"score>{SCORE_THRESHOLD:g}/nms{NMS_IOU:g}/max{max_detections}"


PROTOCOL = decoding_rules(MAX_DETECTIONS)

LARGEST_EXPONENT = 10.0  # a box 22,026 times its anchor: keeps an untrained network's boxes finite


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
    objectness and class probability. As in YOLOv3: a cell's offset is a sigmoid, a size is the anchor times exp.
    """
    boxes, scores = [], []
    for raw, layer in zip(maps, architecture.yolo_layers, strict=True):
        n, _, height, width = raw.shape
        stride = architecture.image_size / width
        anchors = torch.tensor(layer.anchors, device=raw.device)
        raw = raw.float().reshape(n, len(anchors), -1, height, width)
        rows = torch.arange(height, device=raw.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=raw.device).view(1, 1, 1, -1)
        centre_x = (raw[:, :, 0].sigmoid() + columns) * stride
        centre_y = (raw[:, :, 1].sigmoid() + rows) * stride
        half = raw[:, :, 2:4].clamp(max=LARGEST_EXPONENT).exp() * anchors.view(1, -1, 2, 1, 1) / 2
        box = torch.stack(
            [centre_x - half[:, :, 0], centre_y - half[:, :, 1], centre_x + half[:, :, 0], centre_y + half[:, :, 1]],
            dim=-1,
        )
        score = raw[:, :, 4:5].sigmoid() * raw[:, :, 5:].sigmoid()
        boxes.append(box.reshape(n, -1, 4))
        scores.append(score.permute(0, 1, 3, 4, 2).reshape(n, boxes[-1].shape[1], -1))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def suppress(boxes: Tensor, scores: Tensor, max_detections: int = MAX_DETECTIONS) -> list[Detections]:
    """boxes: (N, M, 4); scores: (N, M, C), as `decode` gives them.

    Every class of a box scored above the threshold is a candidate; within a class, a candidate that overlaps a better
    one by more than `NMS_IOU` is dropped; the best `max_detections` of an image are returned. Of equal scores the
    earlier box, then the lower class, comes first.
    """
    image, box, label = (scores > SCORE_THRESHOLD).nonzero(as_tuple=True)
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
        kept = best[batched_nms(positive[best], confidence[best].double(), group[best], NMS_IOU)].sort().values
        if ((image[kept].bincount(minlength=len(boxes)) >= max_detections) | (counts <= tried)).all():
            break
        tried *= 4
    found = []
    for i in range(len(boxes)):
        mine = kept[image[kept] == i][:max_detections]
        found.append(Detections(candidates[mine], confidence[mine], label[mine]))
    return found
