"""What a network says at one scale, its parts by name."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.architecture import Architecture
from detpress.detector.boxes import decode_boxes
from detpress.distillation.links import Heads
from detpress.training.loss import shape_iou


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
    layer, stride = architecture.yolo_layers[place], architecture.stride(raw)
    raw = layer.by_anchor(raw)
    boxes = decode_boxes(raw, layer, stride)
    return Predictions(boxes, raw[:, :, 4], raw[:, :, 5:].permute(0, 1, 3, 4, 2))


def for_the_student(
    said: Predictions, teacher: Architecture, student: Architecture, heads: Heads, size: tuple[int, int]
) -> Predictions:
    """What the teacher has said, for the boxes of the student: its anchors, pixels of its input; `size`: its map's.

    Each box of the student has the teacher's anchor whose shape is the nearest, relative to the inputs. Of several
    places of the teacher in one of the student's the surest counts; where the teacher's are larger, several of the
    student's have the same.
    """
    device = said.objectness.device
    own, others = (torch.tensor(one.input_size[::-1], device=device) for one in (student, teacher))  # width, height
    shapes = [
        torch.tensor(one.yolo_layers[place].anchors, device=device) / sides
        for one, place, sides in ((student, heads.student, own), (teacher, heads.teacher, others))
    ]
    anchors = shape_iou(*shapes).argmax(dim=1)
    objectness, place = functional.adaptive_max_pool2d(said.objectness[:, anchors], size, return_indices=True)

    def there(values: Tensor) -> Tensor:
        """values: (N, A', H', W', K) -> (N, A, H, W, K)."""
        flat = values[:, anchors].flatten(2, 3)
        index = place.flatten(2)[..., None].expand(-1, -1, -1, flat.shape[-1])
        return flat.gather(2, index).reshape(*place.shape, flat.shape[-1])

    return Predictions(there(said.boxes) * (own / others).repeat(2), objectness, there(said.classes))
