"""Average precision exactly as the reference `voc_eval` computes it, for all classes at once.

The rules of the PASCAL VOC development kit (Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge",
IJCV 88, 2010) as the Python reference `voc_eval.py` (py-faster-rcnn) has them:

- boxes are inclusive pixels, so widths and heights are `max - min + 1`;
- detections of a class are taken by descending score, ties in the order given;
- a detection is held against the object of its image with the highest IoU (the first on ties), and matches when that
  IoU is above (not at) the threshold;
- the first to match an object is true, every later one false; one that matches a difficult object is neither;
- recall is over the objects that are not difficult;
- VOC 2007: the mean, over the 11 recalls `np.arange(0, 1.1, 0.1)`, of the best precision from that recall on; VOC
  2010 and later: the area under the precision made monotone.

`salvi2020` is how Salvi and Barros (KDMiLe 2020, IJCNN 2021) scored, by the program that they published: difficult
objects count as ordinary ones, and average precision is the area under the straight lines between 101 recalls of the
monotone precision, which ends at 0 behind the last recall (so a perfect detector has 0.995).

The mean is over the classes that the annotations name. A class without detections counts 0; one whose objects are all
difficult has no recall and is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detpress.errors import InputError
from detpress.voc.annotation import Annotation
from detpress.voc.coco import coco_average_precision, coco_matches
from detpress.voc.matches import ClassMatches
from detpress.voc.protocol import Protocol, protocol_name
from detpress.voc.results import NO_DETECTIONS, ClassDetections

NO_IMAGES = np.zeros(0, np.int64)
DIGITS = 12  # of an average precision: those after them are of the order of its sums, as in 1.0000000000000002


@dataclass(frozen=True)
class Evaluation:
    """Average precision, as fractions.

    protocol: `voc07@0.5+1px`: which average, at which IoU, by which notion of a box.
    left_out: classes whose objects are all difficult.
    """

    protocol: str
    map: float
    ap: dict[str, float]
    left_out: tuple[str, ...]


class Score(float):
    """A mAP, as a fraction, that remembers the evaluation it is the mean of."""

    evaluation: Evaluation

    def __new__(cls, evaluation: Evaluation) -> "Score":
        score = super().__new__(cls, evaluation.map)
        score.evaluation = evaluation
        return score


def evaluate(
    annotations: Sequence[Annotation],
    detections: Mapping[str, ClassDetections],
    protocol: Protocol = "voc07",
    iou: float = 0.5,
) -> Evaluation:
    """Scores `detections`, by class, against the annotations of an image set.

    iou: a detection matches above it; `coco` has ten thresholds of its own.
    Raises InputError for detections of an image that is not in the set or with a score or coordinate that is not
    finite, and where no class can be scored.
    """
    annotations = _as_counted(annotations, protocol)
    objects = class_objects(annotations)
    left_out = tuple(name for name, found in objects.items() if not found.positives.any())
    if protocol == "coco":
        scored, images = _scored(objects, annotations, detections)
        ap = coco_average_precision(annotations, detections, images, list(scored))
    else:
        average = AVERAGES[protocol]
        ap = {
            name: average(*precision_recall(found.true, found.false, int(found.positives.sum())))
            for name, (found,) in find_matches(annotations, detections, protocol, iou).items()
        }
    mean = round(float(np.mean(list(ap.values()))), DIGITS)
    return Evaluation(protocol_name(protocol, iou), mean, {name: round(x, DIGITS) for name, x in ap.items()}, left_out)


def find_matches(
    annotations: Sequence[Annotation],
    detections: Mapping[str, ClassDetections],
    protocol: Protocol = "voc07",
    iou: float = 0.5,
) -> dict[str, tuple[ClassMatches, ...]]:
    """What `evaluate` computes a class's average precision from: one `ClassMatches` an IoU, of which `coco` has ten.

    Classes whose objects are all difficult are left out. Raises InputError as `evaluate` does.
    """
    annotations = _as_counted(annotations, protocol)
    scored, images = _scored(class_objects(annotations), annotations, detections)
    positives = {name: found.positives for name, found in scored.items()}
    if protocol == "coco":
        return coco_matches(annotations, detections, images, positives)
    return {
        name: (match(found, images.get(name, NO_IMAGES), detections.get(name, NO_DETECTIONS), iou),)
        for name, found in scored.items()
    }


def _as_counted(annotations: Sequence[Annotation], protocol: Protocol) -> Sequence[Annotation]:
    """With the objects difficult that the protocol takes for such."""
    if protocol != "salvi2020":
        return annotations
    return [replace(annotation, difficult=np.zeros_like(annotation.difficult)) for annotation in annotations]


@dataclass(frozen=True)
class ClassObjects:
    """The annotated objects of one class, by image.

    boxes: float64 (n, 4), VOC coordinates; difficult: bool (n,).
    first: int64 (images + 1,): the objects of image i are `first[i]:first[i + 1]`.
    """

    boxes: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    first: NDArray[np.int64]

    @property
    def positives(self) -> NDArray[np.int64]:
        """int64 (images,): objects of each image that are not difficult."""
        return np.diff(np.concatenate([[0], np.cumsum(~self.difficult)])[self.first])


def class_objects(annotations: Sequence[Annotation]) -> dict[str, ClassObjects]:
    """The objects of every class that the annotations name, in the order of the names."""
    image = np.repeat(np.arange(len(annotations)), [len(annotation.names) for annotation in annotations])
    names = np.array([name for annotation in annotations for name in annotation.names], dtype=object)
    boxes = np.concatenate([np.zeros((0, 4)), *(annotation.boxes for annotation in annotations)])
    difficult = np.concatenate([np.zeros(0, bool), *(annotation.difficult for annotation in annotations)])
    classes, label = np.unique(names.astype(str), return_inverse=True)
    found = {}
    for i, name in enumerate(classes.tolist()):
        of_class = label == i  # keeps the order of the images
        counts = np.bincount(image[of_class], minlength=len(annotations))
        first = np.concatenate([[0], np.cumsum(counts)])
        found[name] = ClassObjects(boxes[of_class], difficult[of_class], first)
    return found


def match(objects: ClassObjects, images: NDArray[np.int64], detections: ClassDetections, iou: float) -> ClassMatches:
    """Which detections are true and which are false.

    images: int64 (n,), the index of each detection's image.
    """
    order = np.argsort(-detections.scores, kind="stable")
    images, boxes = images[order], detections.boxes[order]
    best, overlap = _best_object(objects, images, boxes)
    matched = overlap > iou
    on_difficult = matched & objects.difficult[np.where(matched, best, 0)] if len(objects.boxes) else matched
    candidates = np.flatnonzero(matched & ~on_difficult)
    _, first = np.unique(best[candidates], return_index=True)
    true = np.zeros(len(order), bool)
    true[candidates[first]] = True
    return ClassMatches(images, true, ~true & ~on_difficult, objects.positives)


def _best_object(
    objects: ClassObjects, images: NDArray[np.int64], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each box the object of its image with the highest IoU, the first on ties, and that IoU (-1 without one)."""
    counts = objects.first[images + 1] - objects.first[images]
    best = np.zeros(len(images), np.int64)
    overlap = np.full(len(images), -1.0)
    having = np.flatnonzero(counts)
    if not len(having):
        return best, overlap
    counts = counts[having]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # Every detection beside every object of its image, one pair a row.
    detection = np.repeat(having, counts)
    candidate = np.arange(len(detection)) + np.repeat(objects.first[images[having]] - starts, counts)
    pairs = _iou(boxes[detection], objects.boxes[candidate])
    overlap[having] = np.maximum.reduceat(pairs, starts)
    reached = np.flatnonzero(pairs == overlap[detection])
    owner, first = np.unique(detection[reached], return_index=True)
    best[owner] = candidate[reached[first]]
    return best, overlap


def _iou(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes (n, 4) and (n, 4), row by row, of inclusive pixels; in the reference's order of operations."""
    size = np.maximum(np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2]) + 1.0, 0.0)
    intersection = size[:, 0] * size[:, 1]
    area, other = ((b[:, 2] - b[:, 0] + 1.0) * (b[:, 3] - b[:, 1] + 1.0) for b in (boxes, others))
    with np.errstate(invalid="ignore"):  # boxes without area on both sides: 0 / 0 matches at no threshold
        return np.asarray(intersection / (area + other - intersection))


def precision_recall(
    true: NDArray[np.bool_], false: NDArray[np.bool_], positives: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall (n,) after each detection."""
    hits = np.cumsum(true)
    taken = np.maximum(hits + np.cumsum(false), np.finfo(np.float64).eps)
    return hits / taken, hits / positives


def average_precision_11_points(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """VOC 2007."""
    best_from = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(sum(best_from[np.searchsorted(recall, np.arange(0.0, 1.1, 0.1))] / 11.0))


def average_precision_area(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """VOC 2010 and later."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision[1:]))


def average_precision_101_points(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    """Of salvi2020."""
    if not len(recall):
        return 0.0
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    return area_at_101_points(np.append(0.0, recall), np.append(best_from[0], best_from))


def area_at_101_points(recall: NDArray[np.float64], best_from: NDArray[np.float64]) -> float:
    """The trapezoids between 101 points of the line through (recall, best precision from there on).

    The last of these is followed by precision 0, a thousandth further or at recall 1.
    """
    recalls = np.append(recall, min(recall[-1] + 1e-3, 1.0))
    heights = np.interp(np.linspace(0.0, 1.0, 101), recalls, np.append(best_from, 0.0))
    return float(np.sum(heights[1:] + heights[:-1]) / 200)


AVERAGES: dict[Protocol, Callable[[NDArray[np.float64], NDArray[np.float64]], float]] = {
    "voc07": average_precision_11_points,
    "voc10": average_precision_area,
    "salvi2020": average_precision_101_points,
}


def _scored(
    objects: Mapping[str, ClassObjects], annotations: Sequence[Annotation], detections: Mapping[str, ClassDetections]
) -> tuple[dict[str, ClassObjects], dict[str, NDArray[np.int64]]]:
    """The classes that have a recall, and for each class of `detections` the index of each detection's image."""
    scored = {name: found for name, found in objects.items() if found.positives.any()}
    if not scored:
        raise InputError("nothing to score: the annotations hold no object that is not difficult")
    index = {annotation.image: i for i, annotation in enumerate(annotations)}
    return scored, {name: _image_indices(name, found, index) for name, found in detections.items()}


def _image_indices(name: str, found: ClassDetections, index: Mapping[str, int]) -> NDArray[np.int64]:
    if not (np.isfinite(found.scores).all() and np.isfinite(found.boxes).all()):
        raise InputError(f"detections of class '{name}': a score or coordinate is not a finite number")
    try:
        return np.fromiter((index[image] for image in found.images), np.int64, len(found.images))
    except KeyError as error:
        raise InputError(f"detections of class '{name}': image {error} is not in the image set") from None
