"""COCO's AP through pycocotools, on cases small enough to count by hand.

COCO takes precision at the 101 recalls 0, 0.01, ..., 1, at each of the 10 IoUs 0.5, 0.55, ..., 0.95.
"""

from collections.abc import Callable

import numpy as np
import pytest

from detpress.voc.annotation import Annotation
from detpress.voc.evaluate import evaluate
from detpress.voc.results import ClassDetections

Annotate = Callable[..., Annotation]
BOX, OFF = (11, 11, 20, 20), (51, 51, 60, 60)


def average(annotations: list[Annotation], *rows: tuple[float, tuple[float, ...]]) -> float:
    """AP of detections (score, VOC box) of dogs on image `x`."""
    scores, boxes = np.array([score for score, _ in rows], float), np.array([box for _, box in rows], float)
    found = evaluate(annotations, {"dog": ClassDetections(("x",) * len(rows), scores, boxes)}, "coco")
    assert found.protocol == "coco@0.5:0.95"
    return found.ap["dog"]


def test_half_the_objects_found(annotate: Annotate) -> None:
    two = [annotate("x", [("dog", BOX, False), ("dog", OFF, False)])]
    assert average(two, (0.9, BOX)) == pytest.approx(51 / 101)


@pytest.mark.parametrize(
    ("bottom", "thresholds"),
    [(15, 1), (17, 5), (20, 10)],  # 50, 70 and 100 of the object's 100 pixels: the last pixel belongs to the box
)
def test_an_object_found_in_part_counts_at_the_thresholds_up_to_its_iou(
    annotate: Annotate, bottom: int, thresholds: int
) -> None:
    one = [annotate("x", [("dog", BOX, False)])]
    assert average(one, (0.9, (11, 11, 20, bottom))) == pytest.approx(thresholds / 10)


def test_detections_of_difficult_objects_do_not_count(annotate: Annotate) -> None:
    annotations = [annotate("x", [("dog", BOX, True), ("dog", OFF, False)])]
    assert average(annotations, (0.9, BOX), (0.8, BOX), (0.7, OFF)) == pytest.approx(1)


def test_an_object_without_area_counts_as_not_found(annotate: Annotate) -> None:
    inverted = (20, 11, 11, 20)
    annotations = [annotate("x", [("dog", inverted, False)])]
    assert average(annotations, (0.9, BOX)) == 0


def test_classes_without_detections_and_nothing_printed(annotate: Annotate, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = [annotate("x", [("dog", BOX, False), ("cat", OFF, False), ("cow", OFF, True)])]
    dog = ClassDetections(("x",), np.array([0.9]), np.array([BOX], float))
    found = evaluate(annotations, {"dog": dog}, "coco")
    assert found.ap == pytest.approx({"cat": 0, "dog": 1})
    assert found.map == pytest.approx(0.5)
    assert found.left_out == ("cow",)
    assert evaluate(annotations, {}, "coco").ap == {"cat": 0, "dog": 0}
    assert capsys.readouterr().out == ""
