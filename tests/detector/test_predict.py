"""From image files to detections in pixels of the image, and on to the evaluator."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.boxes import decode, suppress
from detpress.detector.images import place_image, read_image
from detpress.detector.model import new_model
from detpress.detector.predict import BATCH, collect, predict, predict_image_set
from detpress.errors import InputError
from detpress.voc.annotation import Annotation
from detpress.voc.devkit import open_devkit
from detpress.voc.evaluate import evaluate

ARCHITECTURE = build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=1 / 16)
SIZES = [(64, 64), (100, 40), (30, 90)]  # width, height


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """More images than one batch."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(BATCH + 3):
        width, height = SIZES[i % 3]
        found.append(tmp_path / f"{i:02}.png")
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(found[-1])
    return found


def test_each_image_gets_what_the_network_finds_in_it(paths: list[Path]) -> None:
    network = new_model(ARCHITECTURE, seed=0).network
    found = list(predict(network, ARCHITECTURE, paths))
    assert len(found) == len(paths)
    for path, detections in zip(paths, found, strict=True):
        image = read_image(path)
        square, placement = place_image(image, (64, 64), "letterbox")
        with torch.inference_mode():
            (expected,) = suppress(*decode(network(square[None].float() / 255), ARCHITECTURE))
        boxes = expected.to_image(placement, *image.shape[-2:]).boxes
        assert len(detections.labels) > 0
        assert torch.allclose(detections.scores, expected.scores, atol=1e-6)
        # a batch and a single image may round differently, and so change places of equal scores
        assert torch.allclose(detections.boxes.sum(0), boxes.sum(0), rtol=1e-4)


def test_boxes_lie_in_their_image_and_scores_descend(paths: list[Path]) -> None:
    for i, found in enumerate(predict(new_model(ARCHITECTURE, seed=1).network, ARCHITECTURE, paths)):
        width, height = SIZES[i % 3]
        assert found.boxes.min() >= 0
        assert found.boxes[:, 2].max() <= width
        assert found.boxes[:, 3].max() <= height
        assert found.scores.diff().max() <= 0


def test_the_same_images_give_the_same_bits(paths: list[Path]) -> None:
    network = new_model(ARCHITECTURE, seed=0).network
    for one, other in zip(predict(network, ARCHITECTURE, paths), predict(network, ARCHITECTURE, paths), strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


def test_what_runs_is_given_batches_in_0_to_1_and_progress_is_told(paths: list[Path]) -> None:
    network = new_model(ARCHITECTURE, seed=0).network
    batches: list[Tensor] = []
    told: list[tuple[str, int, int]] = []

    def run(images: Tensor) -> tuple[Tensor, ...]:
        batches.append(images)
        maps: tuple[Tensor, ...] = network(images)
        return maps

    list(predict(run, ARCHITECTURE, paths, lambda *now: told.append(now)))
    assert [tuple(batch.shape) for batch in batches] == [(BATCH, 3, 64, 64), (3, 3, 64, 64)]
    assert all(batch.dtype == torch.float32 and batch.min() >= 0 and batch.max() <= 1 for batch in batches)
    assert told == [("images scored", BATCH, BATCH + 3), ("images scored", BATCH + 3, BATCH + 3)]


def test_gradients_are_as_the_caller_has_them_between_two_images(paths: list[Path]) -> None:
    for _ in predict(new_model(ARCHITECTURE, seed=0).network, ARCHITECTURE, paths[:2]):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_no_images_are_no_detections() -> None:
    assert list(predict(new_model(ARCHITECTURE, seed=0).network, ARCHITECTURE, [])) == []


def test_an_image_that_cannot_be_read_is_named(paths: list[Path]) -> None:
    paths[-1].write_bytes(paths[-1].read_bytes()[:200])
    with pytest.raises(InputError, match=rf"{paths[-1].name}: cannot be read as an image"):
        list(predict(new_model(ARCHITECTURE, seed=0).network, ARCHITECTURE, paths))


def maps_with(label: int, box: list[float], architecture: Architecture) -> list[Tensor]:
    """Raw maps of one image in which an object at `box`, edges in the input, is certain, and nothing else."""
    maps = [torch.full((1, 3 * 7, 64 // stride, 64 // stride), -20.0) for stride in (32, 16)]
    x, y, (width, height) = (box[0] + box[2]) / 32, (box[1] + box[3]) / 32, architecture.yolo_layers[1].anchors[0]
    cell = maps[1][0, :7, int(y), int(x)]
    cell[:2] = torch.logit(torch.tensor([x % 1, y % 1]))
    cell[2:4] = torch.tensor([math.log((box[2] - box[0]) / width), math.log((box[3] - box[1]) / height)])
    cell[4], cell[5 + label] = 20.0, 20.0
    return maps


XML = """<annotation><size><width>{}</width><height>{}</height></size>
<object><name>dog</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>
</annotation>"""


def test_a_network_that_finds_each_object_scores_1(tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    truth = {"wide": (100, 50, [21, 11, 60, 40]), "tall": (32, 64, [2, 3, 30, 50])}  # VOC coordinates
    for name, (width, height, box) in truth.items():
        Image.new("RGB", (width, height)).save(tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / f"Annotations/{name}.xml").write_text(XML.format(width, height, *box))
    (tmp_path / "ImageSets/Main/test.txt").write_text("wide\ntall\n")
    devkit = open_devkit(tmp_path, ARCHITECTURE.classes)
    # wide is scaled by 0.64 and lies from row 16 on; tall is as it is and lies from column 16 on
    inputs = [[20 * 0.64, 10 * 0.64 + 16, 60 * 0.64, 40 * 0.64 + 16], [1.0 + 16, 2.0, 30.0 + 16, 50.0]]

    def run(images: Tensor) -> list[Tensor]:
        each = [maps_with(1, box, ARCHITECTURE) for box in inputs]
        return [torch.cat(scale) for scale in zip(*each, strict=True)]

    detections = predict_image_set(run, ARCHITECTURE, devkit, "test")
    assert detections["dog"].images == ("wide", "tall")
    assert detections["dog"].boxes == pytest.approx(np.array([box for *_, box in truth.values()]), abs=1e-3)
    assert detections["cat"].images == ()
    assert evaluate(devkit.image_set("test"), detections, iou=0.95).map == pytest.approx(1)


def test_images_in_which_nothing_is_found_give_every_class_no_detections(paths: list[Path]) -> None:
    nothing = [torch.full((1, 21, 64 // stride, 64 // stride), -20.0) for stride in (32, 16)]
    found = list(predict(lambda images: nothing, ARCHITECTURE, paths[:1]))
    assert [len(detections.labels) for detections in found] == [0]
    annotation = Annotation("00", paths[0], 64, 64, (), np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0, bool))
    collected = collect(found, [annotation], ARCHITECTURE.classes)
    assert {name: (each.images, each.scores.shape, each.boxes.shape) for name, each in collected.items()} == {
        "cat": ((), (0,), (0, 4)),
        "dog": ((), (0,), (0, 4)),
    }
