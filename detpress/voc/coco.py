"""COCO's average precision over IoU 0.5 to 0.95, computed by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detpress.voc.annotation import Annotation
from detpress.voc.coordinates import edges_from_voc
from detpress.voc.matches import ClassMatches
from detpress.voc.results import ClassDetections

MOST_OF_A_CLASS = 100  # detections in an image that COCO's rules count; the best are


def coco_average_precision(
    annotations: Sequence[Annotation],
    detections: Mapping[str, ClassDetections],
    images: Mapping[str, NDArray[np.int64]],
    classes: Sequence[str],
) -> dict[str, float]:
    """AP of each class: mean over IoU 0.5:0.05:0.95, objects of all sizes, at most 100 detections an image and class.

    images: for each class, the index of each detection's image. Difficult objects are what COCO calls crowds:
    detections that lie on them do not count.
    """
    evaluation = _evaluation(annotations, detections, images, classes)
    if evaluation is None:
        return dict.fromkeys(classes, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class
    return {name: float(precision[:, :, i].mean()) for i, name in enumerate(classes)}


def coco_matches(
    annotations: Sequence[Annotation],
    detections: Mapping[str, ClassDetections],
    images: Mapping[str, NDArray[np.int64]],
    positives: Mapping[str, NDArray[np.int64]],
) -> dict[str, tuple[ClassMatches, ...]]:
    """What `coco_average_precision` computes the AP of each class from: one `ClassMatches` an IoU.

    positives: for each class to score, the objects of each image that are not difficult, int64 (images,).
    """
    evaluation = _evaluation(annotations, detections, images, list(positives))
    if evaluation is None:
        none = np.zeros(0, bool)
        return {name: (ClassMatches(np.zeros(0, np.int64), none, none, found),) for name, found in positives.items()}
    matches = {}
    for i, (name, count) in enumerate(positives.items()):
        start = i * len(evaluation.params.areaRng) * len(annotations)  # objects of all sizes come first
        evaluated = [found for found in evaluation.evalImgs[start : start + len(annotations)] if found is not None]
        order = np.argsort(-np.concatenate([found["dtScores"] for found in evaluated]), kind="mergesort")
        image = np.repeat([found["image_id"] for found in evaluated], [len(found["dtScores"]) for found in evaluated])
        matched = np.concatenate([found["dtMatches"] for found in evaluated], axis=1)[:, order] > 0  # IoU, detection
        ignored = np.concatenate([found["dtIgnore"] for found in evaluated], axis=1)[:, order] > 0
        matches[name] = tuple(
            ClassMatches(image[order].astype(np.int64), hit & ~skipped, ~hit & ~skipped, count)
            for hit, skipped in zip(matched, ignored, strict=True)
        )
    return matches


def _evaluation(
    annotations: Sequence[Annotation],
    detections: Mapping[str, ClassDetections],
    images: Mapping[str, NDArray[np.int64]],
    classes: Sequence[str],
) -> Any:
    """pycocotools' evaluation of every image; None where there is no detection, which it cannot take."""
    category = {name: i for i, name in enumerate(classes, start=1)}
    truth: list[dict[str, Any]] = []
    for i, annotation in enumerate(annotations):
        boxes = _as_coco(annotation.boxes)
        for name, box, difficult in zip(annotation.names, boxes, annotation.difficult.tolist(), strict=True):
            if name in category:
                area = max(box[2] * box[3], 0.0)  # a negative one would leave the object out
                truth.append(
                    {
                        "id": len(truth) + 1,
                        "image_id": i,
                        "category_id": category[name],
                        "bbox": box,
                        "area": area,
                        "iscrowd": int(difficult),
                    }
                )
    found = [
        {"image_id": image, "category_id": category[name], "bbox": box, "score": score}
        for name in classes
        if name in detections
        for image, box, score in zip(
            images[name].tolist(), _as_coco(detections[name].boxes), detections[name].scores.tolist(), strict=True
        )
    ]
    if not found:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(annotations))],
            "annotations": truth,
            "categories": [{"id": i, "name": name} for name, i in category.items()],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
    return evaluation


def _as_coco(boxes: NDArray[np.float64]) -> list[list[float]]:
    """VOC coordinates (n, 4) -> left edge, top edge, width, height."""
    edges = edges_from_voc(boxes)
    rows: list[list[float]] = np.column_stack([edges[:, :2], edges[:, 2:] - edges[:, :2]]).tolist()
    return rows
