"""The VOC evaluator and the annotation reader beside their peers, on a generated set of the size of VOC 2007's test.

    python benchmarks/evaluator.py [--repeat 3] [--json]

4,952 images, 15 thousand objects of 20 classes, 123 thousand detections. All in one process and one run; the median
of the repetitions. Evaluators start from annotations and detections in memory, in the form that each wants them.
`pycocotools` and `faster-coco-eval` are timed twice: asked the same question (IoU 0.5, all sizes, 100 detections), and
with their defaults (10 IoUs, 4 ranges of size, 3 numbers of detections), which is COCO's own protocol.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import faster_coco_eval
import numpy as np
from defusedxml import ElementTree as DefusedElementTree
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detpress.voc.annotation import Annotation
from detpress.voc.devkit import open_devkit
from detpress.voc.evaluate import evaluate
from detpress.voc.results import ClassDetections, read_results, write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/voc"))
from plain_loop import plain_loop

IMAGES, OBJECTS, DETECTIONS, CLASSES = 4_952, 15_000, 123_000, 20
WIDTH, HEIGHT = 500, 375
NAMES = [f"class{i:02d}" for i in range(CLASSES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, of which the median is told (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        detections = write_data_set(root)
        tables = {
            "reading annotations": time_all(annotation_readers(root), options.repeat),
            "reading results files": time_all(results_readers(root), options.repeat),
            "evaluating": time_all(evaluators(open_devkit(root).image_set("test"), detections), options.repeat),
        }
    if options.json:
        print(json.dumps(tables, indent=1))
        return
    print(f"{IMAGES:,} images, {OBJECTS:,} objects, {DETECTIONS:,} detections, {CLASSES} classes")
    for title, seconds in tables.items():
        ours = seconds["detpress"]
        print(f"\n{title:<44} seconds   times ours")
        for name, value in seconds.items():
            print(f"  {name:<42} {value:7.3f}   {value / ours:10.2f}")


def time_all(functions: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """Median seconds of each, taken in turns so that a slow moment of the machine hits them all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeat):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_data_set(root: Path) -> dict[str, ClassDetections]:
    """Writes a devkit and results files into `root`: two shaken detections of each object, the others anywhere."""
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, IMAGES, OBJECTS), rng.integers(0, CLASSES, OBJECTS)
    boxes = random_boxes(rng, OBJECTS)
    difficult = rng.random(OBJECTS) < 0.2
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{i:06d}\n" for i in range(IMAGES)))
    objects: list[list[str]] = [[] for _ in range(IMAGES)]
    for i, box in enumerate(boxes.tolist()):
        sides = "".join(
            f"\t\t\t<{side}>{value:.0f}</{side}>\n"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        objects[image[i]].append(
            f"\t<object>\n\t\t<name>{NAMES[label[i]]}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
            f"\t\t<difficult>{int(difficult[i])}</difficult>\n\t\t<bndbox>\n{sides}\t\t</bndbox>\n\t</object>\n"
        )
    for i, found in enumerate(objects):
        (root / f"Annotations/{i:06d}.xml").write_text(
            f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{i:06d}.jpg</filename>\n\t<source>\n"
            "\t\t<database>generated</database>\n\t</source>\n\t<size>\n"
            f"\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
            f"\t<segmented>0</segmented>\n{''.join(found)}</annotation>\n"
        )
    others = DETECTIONS - 2 * OBJECTS
    shaken = np.concatenate([boxes, boxes]) + rng.normal(0, 8, (2 * OBJECTS, 4))
    all_boxes = np.concatenate([shaken, random_boxes(rng, others)]).round(1)
    all_images = np.concatenate([image, image, rng.integers(0, IMAGES, others)])
    all_labels = np.concatenate([label, label, rng.integers(0, CLASSES, others)])
    scores = np.concatenate([rng.beta(2, 1, 2 * OBJECTS), rng.beta(1, 4, others)]).round(6)
    detections = {}
    for i, name in enumerate(NAMES):
        chosen = all_labels == i
        images = tuple(f"{number:06d}" for number in all_images[chosen])
        detections[name] = ClassDetections(images, scores[chosen], all_boxes[chosen])
    write_results(root, "test", detections)
    return detections


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) VOC coordinates."""
    corners = rng.uniform(1, [WIDTH - 40, HEIGHT - 40], (count, 2))
    sizes = rng.uniform(20, 200, (count, 2))
    return np.column_stack([corners, np.minimum(corners + sizes, [WIDTH, HEIGHT])]).round()


def annotation_readers(root: Path) -> dict[str, Callable[[], Any]]:
    files = sorted((root / "Annotations").glob("*.xml"))
    return {
        "detpress": lambda: open_devkit(root).image_set("test"),
        "xml.etree (open to entity bombs)": lambda: [read_as_reference(file, ElementTree) for file in files],
        "defusedxml": lambda: [read_as_reference(file, DefusedElementTree) for file in files],
    }


def read_as_reference(file: Path, etree: Any) -> list[dict[str, Any]]:
    """The fields of every object as plain data, nothing checked."""
    return [
        {
            "name": found.find("name").text,
            "truncated": int(found.find("truncated").text),
            "difficult": int(found.find("difficult").text),
            "bbox": [float(found.find("bndbox").find(side).text) for side in ("xmin", "ymin", "xmax", "ymax")],
        }
        for found in etree.parse(file).findall("object")
    ]


def results_readers(root: Path) -> dict[str, Callable[[], Any]]:
    def split_lines() -> None:
        for file in root.glob("comp4_det_test_*.txt"):
            rows = [line.split() for line in file.read_text().splitlines()]
            np.array([[float(value) for value in row[1:]] for row in rows])

    return {"detpress": lambda: read_results(root, "test", NAMES), "split and float": split_lines}


def evaluators(annotations: list[Annotation], detections: dict[str, ClassDetections]) -> dict[str, Callable[[], Any]]:
    truth, found = as_coco(annotations, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        coco, faster = COCO(), faster_coco_eval.COCO(truth)
        coco.dataset = truth
        coco.createIndex()
        coco_found, faster_found = coco.loadRes(found), faster.loadRes(found)
    return {
        "detpress": lambda: evaluate(annotations, detections, "voc07"),
        "detpress, voc10": lambda: evaluate(annotations, detections, "voc10"),
        "plain loop": lambda: plain_loop(annotations, detections, eleven_points=True, iou=0.5),
        "faster-coco-eval, same question": lambda: run_coco(
            faster_coco_eval.COCOeval_faster, faster, faster_found, IOU_50
        ),
        "faster-coco-eval, defaults": lambda: run_coco(faster_coco_eval.COCOeval_faster, faster, faster_found, {}),
        "pycocotools, same question": lambda: run_coco(COCOeval, coco, coco_found, IOU_50),
        "pycocotools, defaults": lambda: run_coco(COCOeval, coco, coco_found, {}),
    }


IOU_50 = {"iouThrs": np.array([0.5]), "areaRng": [[0, 1e10]], "areaRngLbl": ["all"], "maxDets": [100]}


def run_coco(kind: Any, truth: Any, found: Any, parameters: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = kind(truth, found, "bbox")
        for name, value in parameters.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()


def as_coco(
    annotations: list[Annotation], detections: dict[str, ClassDetections]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same data in COCO's form."""

    def box_of(box: np.ndarray) -> list[float]:
        x0, y0, x1, y1 = (float(value) for value in box)
        return [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]

    index = {annotation.image: i for i, annotation in enumerate(annotations)}
    objects = [
        {"image_id": i, "category_id": NAMES.index(name) + 1, "bbox": box_of(box), "iscrowd": int(difficult)}
        for i, annotation in enumerate(annotations)
        for name, box, difficult in zip(annotation.names, annotation.boxes, annotation.difficult, strict=True)
    ]
    for i, found in enumerate(objects, start=1):
        found |= {"id": i, "area": found["bbox"][2] * found["bbox"][3]}
    truth = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(len(annotations))],
        "annotations": objects,
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)],
    }
    results = [
        {"image_id": index[image], "category_id": i, "bbox": box_of(box), "score": float(score)}
        for i, name in enumerate(NAMES, start=1)
        for image, box, score in zip(
            detections[name].images, detections[name].boxes, detections[name].scores, strict=True
        )
    ]
    return truth, results


if __name__ == "__main__":
    main()
