"""How far mAP would move if other test images had been drawn: the bootstrap over images.

Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979: as many images as the set
has are drawn from it with replacement, mAP is computed of them, and again, some thousand times; the middle 95 % of
the results, `centred` on the measured mAP, is the interval.

Nothing is matched again for that. Which detection matches which object is decided within an image, so a resample only
weighs images by how often they were drawn. It is exact: an image drawn three times counts as three images, and the
copies of a detection, which stand side by side in the order of scores, change no point of the monotone precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detpress.voc.evaluate import area_at_101_points
from detpress.voc.matches import ClassMatches
from detpress.voc.protocol import Protocol

RESAMPLES = 5000
LEVEL = 0.95
CHUNK = 250  # resamples computed at a time, which bounds the memory
RECALLS = {"voc07": np.arange(0.0, 1.1, 0.1), "coco": np.linspace(0.0, 1.0, 101)}

Counts = NDArray[np.int64]  # (resamples, images): how often each image was drawn


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of what the resamples gave."""

    low: float
    high: float


def draw_images(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Counts:
    """How often each image was drawn in each resample: int64 (resamples, images). The same for all models compared."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(0, images, images) for _ in range(resamples))
    return np.stack([np.bincount(chosen, minlength=images) for chosen in drawn])


def resampled_map(
    matches: Mapping[str, Sequence[ClassMatches]], protocol: Protocol, counts: Counts
) -> NDArray[np.float64]:
    """mAP (resamples,) of each resample; all ones in `counts` give what `evaluate` gives.

    matches: as `find_matches` gives them for the same protocol.
    A class without objects in a resample is left out of its mean, as `evaluate` does; without any, mAP is NaN.
    """
    chunks = [counts[start : start + CHUNK] for start in range(0, len(counts), CHUNK)]
    return np.concatenate([_map_of_chunk(matches, protocol, chunk) for chunk in chunks])


def centred(resampled: NDArray[np.float64], measured: float) -> NDArray[np.float64]:
    """The resamples, moved by what they are off on average, to lie around what was measured on the images as they are.

    A detection comes with its copies, so the average precision of repeated images is a little higher than that of
    images met once: the bootstrap's estimate of bias (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 10). On a few hundred images it can exceed half of the interval, which would then leave out the very value
    that it is of.
    """
    return resampled - np.nanmean(resampled) + measured


def interval(resampled: NDArray[np.float64]) -> Interval:
    """Resamples without any object do not count."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _map_of_chunk(
    matches: Mapping[str, Sequence[ClassMatches]], protocol: Protocol, counts: Counts
) -> NDArray[np.float64]:
    by_iou = [[_average_precision(found, protocol, counts) for found in of_class] for of_class in matches.values()]
    by_class = np.stack([np.mean(averages, axis=0) for averages in by_iou])
    scored = ~np.isnan(by_class)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(scored, by_class, 0.0).sum(axis=0) / scored.sum(axis=0))


def _average_precision(found: ClassMatches, protocol: Protocol, counts: Counts) -> NDArray[np.float64]:
    """AP (resamples,) of one class at one IoU; NaN where no object of it was drawn.

    Precision is highest just after a true detection, so only these are followed, but where lines are drawn between
    the points.
    """
    positives = counts @ found.positives
    hits = np.cumsum(counts[:, found.images[found.true]], axis=1)
    misses = np.cumsum(counts[:, found.images[found.false]], axis=1)
    misses = np.concatenate([np.zeros((len(counts), 1), np.int64), misses], axis=1)
    misses_before = misses[:, np.cumsum(found.false)[found.true]]
    precision = hits / np.maximum(hits + misses_before, np.finfo(np.float64).eps)
    if protocol == "salvi2020":
        return _average_at_101_points(hits, misses_before, misses[:, -1], precision, positives)
    best_from = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / np.maximum(positives, 1)[:, None]
    if protocol == "voc10":
        average = (np.diff(recall, axis=1, prepend=0.0) * best_from).sum(axis=1)
    else:
        best_from = np.concatenate([best_from, np.zeros((len(counts), 1))], axis=1)
        reached = np.stack([(recall < level).sum(axis=1) for level in RECALLS[protocol]], axis=1)
        average = np.take_along_axis(best_from, reached, axis=1).mean(axis=1)
    return np.where(positives > 0, average, np.nan)


def _average_at_101_points(
    hits: Counts, misses_before: Counts, misses: Counts, precision: NDArray[np.float64], positives: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The lines go from just before a true detection to just after it: after the first of its copies.

    hits: (resamples, true detections), up to and with each. misses_before: alike. precision: just after it. misses:
    (resamples,), in all.
    """
    misses_after = np.concatenate([misses_before[:, 1:], misses[:, None]], axis=1)
    before_next = hits / np.maximum(hits + misses_after, np.finfo(np.float64).eps)
    averages = np.zeros(len(hits))
    for i in np.flatnonzero(hits.max(axis=1, initial=0)):
        recall = hits[i] / positives[i]
        first_copy = np.minimum(np.append(0.0, recall[:-1]) + 1 / positives[i], recall)
        points = np.stack([precision[i], precision[i], before_next[i]], axis=1).ravel()
        best_from = np.maximum.accumulate(points[::-1])[::-1]
        at = np.stack([first_copy, recall, recall], axis=1).ravel()
        averages[i] = area_at_101_points(np.append(0.0, at), np.append(best_from[0], best_from))
    return np.where(positives > 0, averages, np.nan)
