"""The VOC evaluator: equal to the reference on its fixtures, and to its rules written as a plain loop on any input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_loop import plain_loop

from detpress.errors import InputError
from detpress.voc.annotation import Annotation
from detpress.voc.devkit import open_devkit
from detpress.voc.evaluate import Evaluation, evaluate
from detpress.voc.protocol import Protocol
from detpress.voc.results import ClassDetections, read_results, write_results

FIXTURES = Path(__file__).parents[3] / "shared/fixtures/voc-eval"
Annotate = Callable[..., Annotation]

BOX = (11, 11, 20, 20)


def detected(*rows: tuple[str, float, tuple[float, ...]]) -> ClassDetections:
    """rows: image, score, VOC box."""
    images = tuple(image for image, _, _ in rows)
    boxes = np.array([box for _, _, box in rows], float).reshape(-1, 4)
    return ClassDetections(images, np.array([score for _, score, _ in rows], float), boxes)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures are not at ../shared/fixtures/voc-eval")
@pytest.mark.parametrize("measure", ["iou0.5_11point", "iou0.5_area", "iou0.75_11point", "iou0.75_area"])
@pytest.mark.parametrize("name", ["blood-cells", "everyday", "voc20-small"])
def test_equal_to_the_reference_voc_eval(name: str, measure: str) -> None:
    folder = FIXTURES / name
    expected = json.loads((folder / "expected.json").read_text())[measure]
    iou, average = measure.removeprefix("iou").split("_")
    protocol: Protocol = "voc07" if average == "11point" else "voc10"
    devkit = open_devkit(folder)
    detections = read_results(folder, "test", devkit.classes)
    annotations = devkit.image_set("test")
    found = evaluate(annotations, detections, protocol, float(iou))
    assert found.protocol == f"{protocol}@{iou}+1px"
    assert found.ap == pytest.approx(expected["ap"], abs=1e-9, rel=0)
    assert found.map == pytest.approx(expected["map"], abs=1e-9, rel=0)
    loop = plain_loop(annotations, detections, average == "11point", float(iou))
    assert loop == pytest.approx(expected["ap"], abs=1e-9, rel=0), "the oracle of the tests below"


coordinate = st.integers(-2, 8).map(float)
box = st.tuples(coordinate, coordinate, coordinate, coordinate)  # small, so that ties and boxes of no area are common
object_ = st.tuples(st.sampled_from("abc"), box, st.booleans())
data_set = st.lists(st.lists(object_, max_size=5), min_size=1, max_size=4)
detection = st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from([0.1, 0.5, 0.9]), box)


@settings(max_examples=500, deadline=None)
@given(data_set, st.lists(detection, max_size=25), st.sampled_from([0.1, 0.25, 0.5, 0.75]), st.booleans())
def test_equal_to_a_plain_loop(
    annotate: Annotate,
    images: list[list[tuple[str, tuple[float, ...], bool]]],
    found: list[tuple[str, int, float, tuple[float, ...]]],
    iou: float,
    eleven_points: bool,
) -> None:
    annotations = [annotate(str(i), objects) for i, objects in enumerate(images)]
    detections = {
        name: detected(*((str(i % len(images)), score, box) for other, i, score, box in found if other == name))
        for name in {name for name, *_ in found}
    }
    expected = plain_loop(annotations, detections, eleven_points, iou)
    if not expected:
        with pytest.raises(InputError, match="nothing to score"):
            evaluate(annotations, detections, iou=iou)
        return
    result = evaluate(annotations, detections, "voc07" if eleven_points else "voc10", iou)
    assert result.ap == pytest.approx(expected, abs=1e-12, rel=0)
    assert result.map == pytest.approx(np.mean(list(expected.values())), abs=1e-12, rel=0)
    named = {name for objects in images for name, _, _ in objects}
    assert set(result.left_out) == named - set(expected)


@pytest.mark.parametrize("protocol", ["voc07", "voc10"])
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_files_of_drawn_objects_equal_to_a_plain_loop(
    write_devkit: Callable[..., Path], tmp_path: Path, protocol: Protocol, iou: float
) -> None:
    """Sixty images, four classes, difficult objects, detections shaken, given twice, out of nothing, and with ties."""
    rng = np.random.default_rng(0)
    names = ("cat", "cow", "dog", "hen")
    images: dict[str, list[tuple[str, tuple[float, ...], bool]]] = {}
    rows: dict[str, list[tuple[str, float, tuple[float, ...]]]] = {name: [] for name in names}
    for i in range(60):
        images[f"{i:06}"] = []
        for _ in range(int(rng.integers(6))):
            left, top, width, height = rng.integers(1, [60, 40, 40, 40]).tolist()
            name, box = str(rng.choice(names)), (left, top, left + width, top + height)
            images[f"{i:06}"].append((name, box, bool(rng.random() < 0.2)))
            for _ in range(int(rng.integers(4))):
                shaken = np.array(box) + rng.normal(0, 2, 4)
                rows[name].append((f"{i:06}", round(rng.random(), 2), tuple(shaken.tolist())))
        rows[str(rng.choice(names))].append((f"{i:06}", round(rng.random(), 2), (1.5, 2.0, 30.25, 40.0)))
    root = write_devkit(tmp_path / "devkit", images, "test")
    drawn = {name: detected(*found) for name, found in rows.items()}
    write_results(tmp_path / "results", "test", drawn)
    annotations = open_devkit(root).image_set("test")
    expected = plain_loop(annotations, drawn, protocol == "voc07", iou)
    found = evaluate(annotations, read_results(tmp_path / "results", "test", names), protocol, iou)
    assert all(0.05 < average < 0.95 for average in expected.values())
    assert len(expected) == len(names)
    assert found.ap == pytest.approx(expected, abs=1e-9, rel=0)
    assert found.map == pytest.approx(sum(expected.values()) / len(names), abs=1e-9, rel=0)


def one_image(annotate: Annotate, *rows: tuple[str, float, tuple[float, ...]], iou: float = 0.5) -> float:
    """VOC 2010's AP of detections on an image `x` with one object in BOX."""
    return evaluate([annotate("x", [("dog", BOX, False)])], {"dog": detected(*rows)}, "voc10", iou).map


def test_boxes_include_their_last_pixel(annotate: Annotate) -> None:
    half = (11, 11, 20, 15)  # 50 of the 100 pixels
    assert one_image(annotate, ("x", 0.9, half), iou=0.499) == 1
    assert one_image(annotate, ("x", 0.9, half), iou=0.5) == 0, "a match lies above the threshold, not at it"


def test_a_second_detection_of_an_object_is_false(annotate: Annotate) -> None:
    two = [annotate("x", [("dog", BOX, False)]), annotate("y", [("dog", BOX, False)])]
    found = evaluate(two, {"dog": detected(("x", 0.9, BOX), ("x", 0.8, BOX), ("y", 0.7, BOX))}, "voc10")
    assert found.map == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_voc07_takes_recall_at_the_thresholds_as_floating_point_has_them(annotate: Annotate) -> None:
    """The fourth of `np.arange(0, 1.1, 0.1)` is 0.30000000000000004: 3 objects of 10 reach three thresholds only."""
    annotations = [annotate(str(i), [("dog", BOX, False)]) for i in range(10)]
    three = detected(*((str(i), 0.9, BOX) for i in range(3)))
    assert evaluate(annotations, {"dog": three}, "voc07").map == pytest.approx(3 / 11)


def test_salvi2020_draws_lines_between_101_recalls_down_to_0_behind_the_last(annotate: Annotate) -> None:
    """Of T F T the monotone precision is 1 before recall 1/2 and 2/3 from there on; heights 50 x 1, 50 x 2/3, 0."""
    two = [annotate("x", [("dog", BOX, False)]), annotate("y", [("dog", BOX, False)])]
    perfect = detected(("x", 0.9, BOX), ("y", 0.8, BOX))
    found = evaluate(two, {"dog": perfect}, "salvi2020")
    assert (found.protocol, found.map) == ("salvi2020@0.5+1px", pytest.approx(0.995))
    with_a_false = detected(("x", 0.9, BOX), ("x", 0.8, BOX), ("y", 0.7, BOX))
    expected = (50 * 1 + 50 * 2 / 3 - 1 / 2) / 100
    assert evaluate(two, {"dog": with_a_false}, "salvi2020").map == pytest.approx(expected)
    assert evaluate(two, {}, "salvi2020").map == 0


def test_salvi2020_counts_difficult_objects_like_any_other(annotate: Annotate) -> None:
    both = [annotate("x", [("dog", BOX, False)]), annotate("y", [("dog", BOX, True)])]
    found = {"dog": detected(("x", 0.9, BOX))}
    assert evaluate(both, found, "voc10").map == 1
    assert evaluate(both, found, "salvi2020").map == pytest.approx((51 - 1 / 2) / 100)  # from 0 to 0.5


def test_ties_are_taken_in_the_order_given(annotate: Annotate) -> None:
    off = (51, 51, 60, 60)
    assert one_image(annotate, ("x", 0.5, BOX), ("x", 0.5, off)) == 1
    assert one_image(annotate, ("x", 0.5, off), ("x", 0.5, BOX)) == 0.5


def test_detections_of_difficult_objects_are_neither_true_nor_false(annotate: Annotate) -> None:
    off = (51, 51, 60, 60)
    annotations = [annotate("x", [("dog", BOX, True), ("dog", off, False)])]
    rows = [("x", 0.9, BOX), ("x", 0.8, BOX), ("x", 0.7, off)]
    assert evaluate(annotations, {"dog": detected(*rows)}).map == pytest.approx(1)


def test_all_found_is_1_and_not_the_sum_of_elevenths(annotate: Annotate) -> None:
    """1 / 11, added eleven times, is 1.0000000000000002 in floating point."""
    found = evaluate([annotate("x", [("dog", BOX, False)])], {"dog": detected(("x", 0.9, BOX))}, "voc07")
    assert (found.map, found.ap) == (1.0, {"dog": 1.0})


def test_the_mean_is_over_the_classes_that_the_annotations_name(annotate: Annotate) -> None:
    annotations = [annotate("x", [("dog", BOX, False), ("cat", BOX, False), ("cow", BOX, True)])]
    found = evaluate(annotations, {"dog": detected(("x", 0.9, BOX)), "bird": detected(("x", 0.9, BOX))})
    assert found.ap == pytest.approx({"cat": 0, "dog": 1})
    assert found.map == pytest.approx(0.5)
    assert found.left_out == ("cow",)


def test_detections_score_the_same_from_memory_and_from_files(annotate: Annotate, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(1, 60, (200, 2))
    boxes = np.column_stack([corners, corners + rng.uniform(5, 40, (200, 2))])
    images = tuple(f"{i % 10}" for i in range(200))
    annotations = [annotate(str(i), [("dog", box, False) for box in boxes[i:60:10]]) for i in range(10)]
    shaken = ClassDetections(images, rng.random(200), boxes + rng.normal(0, 2, (200, 4)))
    write_results(tmp_path, "test", {"dog": shaken})

    def scored(detections: ClassDetections) -> Evaluation:
        return evaluate(annotations, {"dog": detections}, "voc10")

    assert 0 < scored(shaken).map < 1
    assert scored(read_results(tmp_path, "test", ["dog"])["dog"]) == scored(shaken)


def test_an_image_that_is_not_in_the_set(annotate: Annotate) -> None:
    with pytest.raises(InputError, match="detections of class 'dog': image 'y' is not in the image set"):
        one_image(annotate, ("x", 0.9, BOX), ("y", 0.9, BOX))


@pytest.mark.parametrize(("score", "right"), [(np.nan, 20.0), (0.5, np.nan), (np.inf, 20.0)])
def test_numbers_that_are_not_finite(annotate: Annotate, score: float, right: float) -> None:
    with pytest.raises(InputError, match="detections of class 'dog': a score or coordinate is not a finite number"):
        one_image(annotate, ("x", score, (11, 11, right, 20)))


def test_nothing_to_score(annotate: Annotate) -> None:
    with pytest.raises(InputError, match="nothing to score: the annotations hold no object that is not difficult"):
        evaluate([annotate("x", [("dog", BOX, True)]), annotate("y", [])], {})
