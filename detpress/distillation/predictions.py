"""What a network says at one scale, its parts by name."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.boxes import decode_boxes


@dataclass(frozen=True)
class Predictions:
    """Of one scale, float32, for A boxes at each of H x W places.

    boxes: (N, A, H, W, 4), edges in pixels of the network's input. objectness: (N, A, H, W) and classes:
    (N, A, H, W, C), logits.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor

    @property
    def scores(self) -> Tensor:
        """Of the likeliest class, with the objectness: (N, A, H, W) in [0, 1]."""
        return self.objectness.sigmoid() * self.classes.sigmoid().amax(dim=-1)


def predictions(raw: Tensor, architecture: Architecture, place: int) -> Predictions:
    """raw: (N, A * (5 + C), H, W), what the head at this place, coarse to fine, gives at the network's input size."""
    anchors = torch.tensor(architecture.yolo_layers[place].anchors, device=raw.device)
    n, _, height, width = raw.shape
    raw = raw.float().reshape(n, len(anchors), -1, height, width)
    boxes = decode_boxes(raw, anchors, architecture.image_size / width)
    return Predictions(boxes, raw[:, :, 4], raw[:, :, 5:].permute(0, 1, 3, 4, 2))
