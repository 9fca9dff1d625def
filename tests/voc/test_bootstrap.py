"""The bootstrap over images: equal to the evaluator on images that are really repeated, and to scipy's interval."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from detpress.voc.annotation import Annotation
from detpress.voc.bootstrap import centred, draw_images, interval, resampled_map
from detpress.voc.evaluate import evaluate, find_matches
from detpress.voc.protocol import PROTOCOLS, Protocol
from detpress.voc.results import ClassDetections

Annotate = Callable[..., Annotation]
Detections = dict[str, ClassDetections]


def shaken_objects(
    annotate: Annotate, images: int = 12, seed: int = 0, scores: int = 30
) -> tuple[list[Annotation], Detections]:
    """Two classes, some objects difficult, and detections around them: some good, some off; few `scores` make ties."""
    rng = np.random.default_rng(seed)
    annotations = []
    rows: dict[str, list[tuple[str, float, np.ndarray]]] = {"cat": [], "dog": []}
    for i in range(images):
        corners = rng.uniform(1, 60, (3, 2))
        boxes = np.column_stack([corners, corners + rng.uniform(8, 30, (3, 2))])
        names = rng.choice(["cat", "dog"], 3)
        objects = [(str(name), box, bool(rng.random() < 0.1)) for name, box in zip(names, boxes, strict=True)]
        annotations.append(annotate(str(i), objects))
        for name, box, _ in objects * 2:
            rows[name].append((str(i), float(rng.integers(1, scores)) / scores, box + rng.normal(0, 3, 4)))
    detections = {
        name: ClassDetections(
            tuple(r[0] for r in found), np.array([r[1] for r in found]), np.stack([r[2] for r in found])
        )
        for name, found in rows.items()
    }
    return annotations, detections


def repeated(
    annotations: Sequence[Annotation], detections: Detections, drawn: Sequence[int]
) -> tuple[list[Annotation], Detections]:
    """The images `drawn`, each copy under a name of its own, with its objects and its detections."""
    copies = [replace(annotations[i], image=f"{annotations[i].image} copy {n}") for n, i in enumerate(drawn)]
    found = {}
    for name, of_class in detections.items():
        rows = [
            (copy.image, score, box)
            for image, score, box in zip(of_class.images, of_class.scores, of_class.boxes, strict=True)
            for copy, i in zip(copies, drawn, strict=True)
            if annotations[i].image == image
        ]
        boxes = np.array([row[2] for row in rows]).reshape(-1, 4)
        found[name] = ClassDetections(tuple(row[0] for row in rows), np.array([row[1] for row in rows]), boxes)
    return copies, found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_image_once_gives_the_evaluators_map(annotate: Annotate, protocol: Protocol) -> None:
    annotations, detections = shaken_objects(annotate)
    found = find_matches(annotations, detections, protocol)
    once = resampled_map(found, protocol, np.ones((1, len(annotations)), np.int64))
    expected = evaluate(annotations, detections, protocol).map
    assert 0.1 < expected < 0.9
    assert once == pytest.approx([expected], abs=1e-12, rel=0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_resample_gives_what_the_evaluator_says_of_the_images_repeated(
    annotate: Annotate, data: st.DataObject
) -> None:
    protocol = data.draw(st.sampled_from(PROTOCOLS))
    scores = 10**9 if protocol == "coco" else 30  # pycocotools takes tied detections by image
    annotations, detections = shaken_objects(annotate, 6, data.draw(st.integers(0, 99)), scores)
    drawn = data.draw(st.lists(st.integers(0, 5), min_size=6, max_size=6))
    copies, found = repeated(annotations, detections, drawn)
    assume(not all(copy.difficult.all() for copy in copies))  # that is nothing to score
    counts = np.bincount(drawn, minlength=6)[None]
    resampled = resampled_map(find_matches(annotations, detections, protocol), protocol, counts)
    assert resampled == pytest.approx([evaluate(copies, found, protocol).map], abs=1e-12, rel=0)


def test_the_interval_is_scipys(annotate: Annotate) -> None:
    """Given the same draws, scipy, which scores every resample anew by the evaluator, has the same interval."""
    annotations, detections = shaken_objects(annotate)
    resamples = 400

    def scored_anew(drawn: np.ndarray) -> float:
        return evaluate(*repeated(annotations, detections, drawn.astype(int).tolist())).map

    expected = bootstrap(
        (np.arange(len(annotations)),),
        scored_anew,
        n_resamples=resamples,
        batch=1,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    counts = draw_images(len(annotations), resamples, seed=5)
    found = interval(resampled_map(find_matches(annotations, detections), "voc07", counts))
    assert found.high - found.low > 0.1
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_centred_interval_is_as_wide_and_holds_what_was_measured(annotate: Annotate) -> None:
    annotations, detections = shaken_objects(annotate)
    measured = evaluate(annotations, detections).map
    resampled = resampled_map(find_matches(annotations, detections), "voc07", draw_images(len(annotations), 400))
    found, plain = interval(centred(resampled, measured)), interval(resampled)
    assert found.low <= measured <= found.high
    assert found.high - found.low == pytest.approx(plain.high - plain.low, abs=1e-12)
    assert np.mean(centred(resampled, measured)) == pytest.approx(measured, abs=1e-12)


def test_resamples_without_an_object_do_not_count(annotate: Annotate) -> None:
    box = (11, 11, 20, 20)
    annotations = [annotate("x", [("dog", box, False)]), annotate("y", [])]
    dog = ClassDetections(("x",), np.array([0.9]), np.array([box], float))
    resampled = resampled_map(find_matches(annotations, {"dog": dog}), "voc07", np.array([[0, 2], [2, 0], [1, 1]]))
    assert np.isnan(resampled[0])
    assert interval(resampled).low == pytest.approx(1)


def test_draws_are_of_as_many_images_and_the_seed_decides_them() -> None:
    counts = draw_images(50, 20)
    assert counts.sum(axis=1).tolist() == [50] * 20
    assert np.array_equal(counts, draw_images(50, 20))
    assert not np.array_equal(counts, draw_images(50, 20, seed=1))
