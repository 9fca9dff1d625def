"""Training images: squares of the network's size, with the objects where they lie in them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from detpress.detector.architecture import build_architecture
from detpress.training.dataset import TrainingSet, collate
from detpress.voc.devkit import Devkit, open_devkit

WHITE_CELL = (68, 315, 286, 480)  # in VOC coordinates
BOXES = {
    "one": [("WBC", WHITE_CELL), ("RBC", (100, 50, 200, 140))],
    "two": [("RBC", (1, 1, 640, 480)), ("RBC", (300, 200, 340, 230)), ("RBC", (301, 200, 300, 260))],
    "three": [("Platelets", (20, 30, 60, 70))],
}


@pytest.fixture
def devkit(tmp_path: Path) -> Devkit:
    """Three pictures of 640 by 480; a box of the second has no area."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for image, boxes in BOXES.items():
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
            f"<ymax>{bottom}</ymax></bndbox></object>"
            for name, (left, top, right, bottom) in boxes
        )
        size = "<size><width>640</width><height>480</height></size>"
        (tmp_path / f"Annotations/{image}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        Image.new("RGB", (640, 480), (200, 100, 50)).save(tmp_path / f"JPEGImages/{image}.jpg")
    (tmp_path / "ImageSets/Main/train.txt").write_text("".join(f"{image}\n" for image in BOXES))
    return open_devkit(tmp_path)


def training_set(devkit: Devkit, resize: str) -> TrainingSet:
    return TrainingSet(devkit, "train", build_architecture("yolov3", devkit.classes, 256, 0.1, resize=resize))


def test_a_photograph_of_640_by_480_is_letterboxed_or_stretched(devkit: Devkit) -> None:
    for resize, expected in (
        ("letterbox", [67 * 0.4, 314 * 0.4 + 32, 286 * 0.4, 480 * 0.4 + 32]),
        ("stretch", [67 * 0.4, 314 * 256 / 480, 286 * 0.4, 256]),
    ):
        square, labels, boxes, difficult = training_set(devkit, resize)[0]
        assert square.shape == (3, 256, 256)
        assert square.dtype is torch.uint8
        assert boxes[0].tolist() == pytest.approx(expected, abs=1e-4)
        assert labels[0] == 2  # Platelets, RBC, WBC
        assert not difficult.any()


def test_a_box_without_area_is_left_out(devkit: Devkit) -> None:
    data = training_set(devkit, "stretch")
    annotation = devkit.image_set("train")[1]
    assert annotation.degenerate.tolist() == [False, False, True]
    _, labels, boxes, _ = data[1]
    assert len(labels) == len(boxes) == 2
    assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()


def test_a_batch_tells_whose_an_object_is(devkit: Devkit) -> None:
    data = training_set(devkit, "stretch")
    images, targets = collate([data[0], data[1], data[2]])
    assert images.shape == (3, 3, 256, 256)
    assert torch.bincount(targets.image).tolist() == [2, 2, 1]
    assert torch.equal(targets.boxes[targets.image == 1], data[1][2])


def test_what_was_read_is_kept_where_there_is_room_for_it_in_all_processes(
    devkit: Devkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = build_architecture("yolov3", devkit.classes, 64, 0.1)
    needed = len(devkit.image_set("train")) * 3 * 64 * 64
    monkeypatch.setattr("detpress.training.dataset.CACHE_BYTES", 2 * needed)
    for processes, kept in ((1, True), (2, True), (3, False)):
        data = TrainingSet(devkit, "train", architecture, processes)
        assert (data[0][0] is data[0][0]) == kept
