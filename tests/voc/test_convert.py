"""From one layout to another and back: the same annotations, bit for bit."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from voc_xml import annotation_xml

from detpress.errors import InputError
from detpress.voc.annotation import Annotation
from detpress.voc.convert import TARGETS, Target, convert
from detpress.voc.devkit import Devkit
from detpress.voc.named import open_data

LAYOUTS = {"voc": "Pascal VOC", "yolo": "YOLO text", "coco": "COCO JSON"}


@pytest.fixture
def devkit(tmp_path: Path, write_devkit: Callable[..., Path]) -> Devkit:
    """Boxes with many digits, beyond the picture, difficult; names with spaces, dots, folders and other letters."""
    generator = np.random.default_rng(0)
    corners = generator.uniform(-5, 110, (40, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    many = [("dog" if i % 3 else "čau & <b>", box, False) for i, box in enumerate(boxes.tolist())]
    many = [
        (name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"), box, flag) for name, box, flag in many
    ]
    root = write_devkit(
        tmp_path / "kit", {"a b": many, "c.d": [("cat", (1.1, 2, 30.3, 40), False)], "none": []}, "train"
    )
    write_devkit(root, {"e": [("cat", (1, 1, 100, 80), True), ("dog", (0, 0, 99, 79), False)]}, "test")
    (root / "ImageSets/Main/trainval.txt").write_text("none\na b\n")
    for part, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (root / part / "day").mkdir()
        (root / part / f"e.{suffix}").rename(root / part / f"day/e.{suffix}")
    (root / "ImageSets/Main/test.txt").write_text("day/e\n")
    return open_data(str(root))


def said(annotation: Annotation, marks: bool) -> tuple[object, ...]:
    flags = (annotation.difficult.tolist(), annotation.truncated.tolist()) if marks else ()
    return annotation.image, annotation.size, annotation.names, annotation.boxes.tolist(), *flags


def check_same(one: Devkit, other: Devkit, marks: bool) -> None:
    assert one.image_set_names == other.image_set_names
    assert one.classes == other.classes
    for name in one.image_set_names:
        ours, theirs = one.image_set(name), other.image_set(name)
        assert [said(annotation, marks) for annotation in ours] == [said(annotation, marks) for annotation in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert one.image_path(a).read_bytes() == other.image_path(b).read_bytes()


@pytest.mark.parametrize("target", TARGETS)
def test_a_data_set_comes_back_from_each_layout(devkit: Devkit, target: Target, tmp_path: Path) -> None:
    notes = convert(devkit, target, tmp_path / target)
    there = open_data(str(tmp_path / target))
    assert there.layout.name == LAYOUTS[target]
    check_same(devkit, there, marks=target != "yolo")
    assert notes == (
        ["1 objects are marked difficult, which YOLO's text cannot say: they are written as any others"]
        if target == "yolo"
        else []
    )
    convert(there, "voc", tmp_path / "back")
    check_same(devkit, open_data(str(tmp_path / "back")), marks=target != "yolo")
    with pytest.raises(InputError, match="back: not empty; expected a folder to be made"):
        convert(there, "voc", tmp_path / "back")


def test_classes_that_pascal_voc_does_not_know_are_told(devkit: Devkit, tmp_path: Path) -> None:
    convert(devkit, "yolo", tmp_path / "yolo")
    described = tmp_path / "yolo/data.yaml"
    described.write_text(described.read_text() + "- unicorn\n")
    there = open_data(str(tmp_path / "yolo"))
    [note] = convert(there, "voc", tmp_path / "voc")
    assert note.endswith(f"a recipe gives them back: data.classes: [{', '.join(devkit.classes)}, unicorn]")


def test_cocos_own_tools_read_the_same(devkit: Devkit, tmp_path: Path) -> None:
    convert(devkit, "coco", tmp_path / "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(tmp_path / "coco/annotations/instances_test.json")
    (image,) = found.loadImgs(found.getImgIds())
    assert (image["file_name"], image["width"], image["height"]) == ("day/e.jpg", 100, 80)
    objects = found.loadAnns(found.getAnnIds())
    assert [(entry["bbox"], entry["iscrowd"], entry["area"]) for entry in objects] == [
        ([0, 0, 100, 80], 1, 8000),
        ([-1, -1, 100, 80], 0, 8000),
    ]


def test_an_image_set_that_yolos_description_would_take_for_something_else_is_refused(
    tmp_path: Path, write_devkit: Callable[..., Path]
) -> None:
    root = write_devkit(tmp_path / "kit", {"a": [("dog", (1, 1, 20, 20), False)]})
    (root / "ImageSets/Main/names.txt").write_text("a\n")
    with pytest.raises(InputError, match=r"an image set called names, which in YOLO's data\.yaml is a key of another"):
        convert(open_data(str(root)), "yolo", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("box", "target", "message"),
    [
        ((500, 1, 600, 5), "yolo", r"a\.xml:4: object 1: the box \[500.0, .* is no box within or near its picture"),
        ((30, 1, 20, 5), "yolo", r"a\.xml:4: object 1: the box .* is no box"),
        ((30, 1, 20, 5), "coco", r"a\.xml:4: object 1: the box .* ends before it starts"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, write_devkit: Callable[..., Path], box: tuple[int, ...], target: Target, message: str
) -> None:
    root = write_devkit(tmp_path / "kit", {"a": [("dog", (1, 1, 20, 20), False)]})
    (root / "Annotations/a.xml").write_text(annotation_xml([("dog", box, False)]).replace("  <size>", "\n  <size>"))
    with pytest.raises(InputError, match=message):
        convert(open_data(str(root)), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_set_that_no_file_can_be_named_after_is_refused(
    tmp_path: Path, write_devkit: Callable[..., Path], target: Target
) -> None:
    root = write_devkit(tmp_path / "kit", {"a": [("dog", (1, 1, 20, 20), False)]})
    (root / "ImageSets/Main/a\nb.txt").write_text("a\n")
    with pytest.raises(InputError, match=r"kit: image set 'a\\nb': expected a plain name, such as train"):
        convert(open_data(str(root)), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_stopped_leaves_nothing_and_can_be_done_again(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("detpress.voc.convert.shutil.copyfile", stopped)
        with pytest.raises(KeyboardInterrupt):
            convert(devkit, "coco", tmp_path / "out/set")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out/set").mkdir()
    convert(devkit, "coco", tmp_path / "out/set")
    assert open_data(str(tmp_path / "out/set")).image_set_names == devkit.image_set_names


def test_a_picture_of_a_suffix_that_no_layout_looks_for_is_refused(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "p.jfif", "width": 8, "height": 8}]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/labels.json").write_text(
        json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]})
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "in/p.jfif", format="JPEG")
    with pytest.raises(InputError, match=r"p\.jfif: other layouts find a picture by its suffix; expected \.jpg"):
        convert(open_data(str(tmp_path / "in")), "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists()
