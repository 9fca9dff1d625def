"""Training images: squares of the network's size, with the objects where they lie in them."""

from pathlib import Path

import pytest
import torch

from detpress.detector.architecture import build_architecture
from detpress.training.dataset import TrainingSet, collate
from detpress.voc.devkit import open_devkit

BCCD = Path(__file__).parents[3] / "shared/data/BCCD"

pytestmark = pytest.mark.skipif(not BCCD.is_dir(), reason=f"{BCCD} is not there")


def training_set(resize: str) -> TrainingSet:
    devkit = open_devkit(BCCD)
    return TrainingSet(devkit, "train", build_architecture("yolov3", devkit.classes, 256, 0.1, resize=resize))


def test_a_photograph_of_640_by_480_is_letterboxed_or_stretched() -> None:
    """BloodImage_00001's first object, a white cell, is 68, 315, 286, 480 in VOC coordinates."""
    for resize, expected in (
        ("letterbox", [67 * 0.4, 314 * 0.4 + 32, 286 * 0.4, 480 * 0.4 + 32]),
        ("stretch", [67 * 0.4, 314 * 256 / 480, 286 * 0.4, 256]),
    ):
        square, labels, boxes, difficult = training_set(resize)[0]
        assert square.shape == (3, 256, 256)
        assert square.dtype is torch.uint8
        assert boxes[0].tolist() == pytest.approx(expected, abs=1e-4)
        assert labels[0] == 2  # Platelets, RBC, WBC
        assert not difficult.any()


def test_a_box_without_area_is_left_out() -> None:
    devkit = open_devkit(BCCD)
    sets = {name: devkit.image_set(name) for name in ("train", "val", "test")}
    name, index = next(
        (name, i) for name, found in sets.items() for i, annotation in enumerate(found) if annotation.degenerate.any()
    )
    data = TrainingSet(devkit, name, build_architecture("yolov3", devkit.classes, 256, 0.1))
    _, labels, boxes, _ = data[index]
    annotation = sets[name][index]
    assert len(labels) == len(boxes) == len(annotation.names) - int(annotation.degenerate.sum())
    assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()


def test_a_batch_tells_whose_an_object_is() -> None:
    data = training_set("stretch")
    images, targets = collate([data[0], data[1], data[2]])
    assert images.shape == (3, 3, 256, 256)
    assert torch.bincount(targets.image).tolist() == [len(data[i][1]) for i in range(3)]
    assert torch.equal(targets.boxes[targets.image == 1], data[1][2])


def test_what_was_read_is_kept_where_there_is_room_for_it_in_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    devkit = open_devkit(BCCD)
    architecture = build_architecture("yolov3", devkit.classes, 64, 0.1)
    needed = len(devkit.image_set("train")) * 3 * 64 * 64
    monkeypatch.setattr("detpress.training.dataset.CACHE_BYTES", 2 * needed)
    for processes, kept in ((1, True), (2, True), (3, False)):
        data = TrainingSet(devkit, "train", architecture, processes)
        assert (data[0][0] is data[0][0]) == kept
