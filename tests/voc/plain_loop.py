"""The reference's rules read off one detection at a time: the oracle of the tests, and what the benchmark compares to.

After PASCAL VOC's `voc_eval.py` (py-faster-rcnn), written independently of `detpress.voc.evaluate`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from detpress.voc.annotation import Annotation
from detpress.voc.results import ClassDetections


def plain_loop(
    annotations: Sequence[Annotation], detections: Mapping[str, ClassDetections], eleven_points: bool, iou: float
) -> dict[str, float]:
    """AP of each class that has objects which are not difficult."""
    objects: dict[str, dict[str, list[int]]] = {}
    for annotation in annotations:
        for j, name in enumerate(annotation.names):
            objects.setdefault(name, {}).setdefault(annotation.image, []).append(j)
    of_image = {annotation.image: annotation for annotation in annotations}
    found = {
        name: _class_average(of_image, objects[name], detections.get(name), eleven_points, iou)
        for name in sorted(objects)
    }
    return {name: ap for name, ap in found.items() if ap is not None}


def _class_average(
    annotations: Mapping[str, Annotation],
    objects: Mapping[str, list[int]],
    detections: ClassDetections | None,
    eleven_points: bool,
    iou: float,
) -> float | None:
    """objects: by image, which of the annotation's objects are of the class."""
    boxes = {image: annotations[image].boxes[indices] for image, indices in objects.items()}
    difficult = {image: annotations[image].difficult[indices] for image, indices in objects.items()}
    taken = {image: [False] * len(indices) for image, indices in objects.items()}
    positives = sum(int((~flags).sum()) for flags in difficult.values())
    if positives == 0:
        return None
    if detections is None or not len(detections.scores):
        return 0.0
    order = np.argsort(-detections.scores, kind="stable")
    true, false = np.zeros(len(order)), np.zeros(len(order))
    for rank, i in enumerate(order):
        image, box = detections.images[i], detections.boxes[i]
        best, highest = -1, -np.inf
        if image in boxes:
            overlaps = _overlaps(box, boxes[image])
            best, highest = int(np.argmax(overlaps)), float(np.max(overlaps))
        if not highest > iou:
            false[rank] = 1
        elif not difficult[image][best]:
            (false if taken[image][best] else true)[rank] = 1
            taken[image][best] = True
    hits, misses = np.cumsum(true), np.cumsum(false)
    recall = hits / positives
    precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
    return _eleven_points(recall, precision) if eleven_points else _area(recall, precision)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    width = np.maximum(np.minimum(others[:, 2], box[2]) - np.maximum(others[:, 0], box[0]) + 1.0, 0.0)
    height = np.maximum(np.minimum(others[:, 3], box[3]) - np.maximum(others[:, 1], box[1]) + 1.0, 0.0)
    shared = width * height
    area = (box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0)
    other_areas = (others[:, 2] - others[:, 0] + 1.0) * (others[:, 3] - others[:, 1] + 1.0)
    with np.errstate(invalid="ignore"):
        return shared / (area + other_areas - shared)


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    total = 0.0
    for threshold in np.arange(0.0, 1.1, 0.1):
        reached = precision[recall >= threshold]
        total += (float(reached.max()) if len(reached) else 0.0) / 11.0
    return total


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    area, best = 0.0, 0.0
    for i in reversed(range(len(recall))):
        best = max(best, float(precision[i]))
        area += (recall[i] - (recall[i - 1] if i else 0.0)) * best
    return area
