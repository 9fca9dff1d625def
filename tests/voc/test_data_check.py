"""What is wrong with a data set is seen before anything is computed with it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from detpress.errors import InputError
from detpress.recipe.file import Recipe, read_recipe
from detpress.run.data_check import Finding, annotation_findings, picture_findings, shared_images
from detpress.run.data_inspection import inspect_data
from detpress.voc.devkit import open_devkit

WriteDevkit = Callable[..., Path]
DOG = ("dog", (10, 10, 40, 50), False)
CAT = ("cat", (10, 10, 40, 50), False)
FLAT = ("dog", (10, 10, 10, 50), False)
RECIPE = """\
name: checked
data: {root: kit}
model: {arch: yolov3-tiny, width: 0.0625, image_size: 64}
chain: [train.scratch: {epochs: 1}]
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))

    def read(*settings: str) -> Recipe:
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        return read_recipe(tmp_path / "recipe.yaml", settings)

    return read


@pytest.fixture
def kit(tmp_path: Path, write_devkit: WriteDevkit) -> Path:
    """Two images to train on, one to score on, each of its own grey."""
    write_devkit(tmp_path / "kit", {"a": [DOG], "b": [DOG, CAT]}, "train")
    write_devkit(tmp_path / "kit", {"c": [DOG]}, "test")
    for grey, name in enumerate("abc"):
        Image.new("RGB", (100, 80), (grey * 50, 0, 0)).save(tmp_path / f"kit/JPEGImages/{name}.jpg")
    return tmp_path / "kit"


def pictures(recipe: Recipe, kit: Path) -> list[Finding]:
    return picture_findings(recipe, open_devkit(kit), lambda what, done, total: None)


def texts(findings: list[Finding], is_error: bool) -> list[str]:
    assert all(finding.is_error is is_error for finding in findings), findings
    return [finding.text for finding in findings]


def test_a_sound_data_set_gives_nothing_to_say(kit: Path, read: Callable[..., Recipe]) -> None:
    assert annotation_findings(read(), open_devkit(kit)) == []
    assert pictures(read(), kit) == []


def test_every_kind_of_unreadable_annotation_is_one_line_with_its_number(
    kit: Path, read: Callable[..., Recipe]
) -> None:
    (kit / "Annotations/a.xml").write_text("<annotation><object>")
    (kit / "ImageSets/Main/test.txt").write_text("c\nd\n")
    malformed, unlisted = texts(annotation_findings(read(), open_devkit(kit, ["dog"])), is_error=True)
    assert malformed.startswith(f"{kit}/Annotations/a.xml:1: malformed XML: ")
    assert malformed.endswith(" (2 such in all)")
    assert "b.xml:8: object 2: class 'cat' is not in the recipe's or detector's list; expected one of: dog" in unlisted
    [absent, *_] = texts(annotation_findings(read("data.test=tset"), open_devkit(kit)), is_error=True)[1:]
    assert absent == f"{kit}: no image set 'tset'; did you mean 'test'?"


def test_boxes_without_area_are_said_or_refused_in_every_image_set(
    kit: Path, read: Callable[..., Recipe], write_devkit: WriteDevkit
) -> None:
    write_devkit(kit, {"a": [DOG, FLAT], "b": [CAT]}, "train")
    write_devkit(kit, {"c": [DOG, FLAT]}, "test")
    assert texts(annotation_findings(read(), open_devkit(kit)), is_error=False) == [
        "1 training boxes left out: no area, or off the image; stage.log names them",
        f"1 boxes of 'test' have no area or lie off the image, such as object 2 of {kit}/Annotations/c.xml: "
        "they count as objects to find",
    ]
    train, test = texts(annotation_findings(read("data.bad_boxes=refuse"), open_devkit(kit)), is_error=True)
    assert f"{kit}/Annotations/a.xml:8: object 2 (dog): box " in train
    assert f"{kit}/Annotations/c.xml:8: object 2 (dog): box " in test


def test_classes_that_cannot_be_learnt_or_scored_are_said(
    kit: Path, read: Callable[..., Recipe], write_devkit: WriteDevkit
) -> None:
    [said] = texts(annotation_findings(read(), open_devkit(kit, ["dog", "cat", "cow"])), is_error=False)
    assert said == "no object of cow in 'train': nothing can be learnt of it"
    write_devkit(kit, {"c": [("dog", (10, 10, 40, 50), True)]}, "test")
    [said] = texts(annotation_findings(read(), open_devkit(kit)), is_error=True)
    assert said == f"{kit}: the image set 'test' holds no object that is not difficult to score by"


def test_more_objects_than_are_kept_are_said_before_the_work(
    kit: Path, read: Callable[..., Recipe], write_devkit: WriteDevkit
) -> None:
    write_devkit(kit, {"c": [DOG] * 101}, "test")
    [said] = texts(annotation_findings(read(), open_devkit(kit)), is_error=False)
    assert said.startswith("1 images of 'test' hold more objects, up to 101, than the 100 detections that are kept")
    assert annotation_findings(read("measure.max_detections=101"), open_devkit(kit)) == []
    coco = read("measure.max_detections=101", "measure.protocol=coco")
    [said] = texts(annotation_findings(coco, open_devkit(kit)), is_error=False)
    assert (
        said
        == "images of 'test' hold up to 101 objects of a class, of which coco counts 100: voc07 and voc10 count all"
    )


def test_every_kind_of_broken_picture_is_one_line_with_its_number(
    kit: Path, read: Callable[..., Recipe], write_devkit: WriteDevkit
) -> None:
    write_devkit(kit, {name: [DOG] for name in "defgh"}, "val")
    folder = kit / "JPEGImages"
    for name in "ad":
        (folder / f"{name}.jpg").write_bytes((folder / f"{name}.jpg").read_bytes()[:-200])
    for name in "ceg":
        Image.new("RGB", (50, 40)).save(folder / f"{name}.jpg")
    (folder / "h.jpg").unlink()
    cut, shrunk, absent = texts(pictures(read(), kit), is_error=True)
    assert cut.startswith(f"{folder}/a.jpg: cannot be read as an image (")
    assert cut.endswith("(2 such in all)")
    assert f"h.xml: its image {folder}/h.jpg does not exist" in absent
    assert shrunk == f"{folder}/e.jpg: 50x40 pixels, but its annotation says 100x80 (3 such in all)"


def test_a_picture_is_read_again_only_when_it_changed(kit: Path, read: Callable[..., Recipe]) -> None:
    assert pictures(read(), kit) == []
    photo = kit / "JPEGImages/a.jpg"
    whole, state = photo.read_bytes(), photo.stat()
    photo.write_bytes(whole[:-200] + bytes(200))
    os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert pictures(read(), kit) == [], "neither its size nor its time changed: it was not read"
    photo.write_bytes(whole[:-200])
    [said] = texts(pictures(read(), kit), is_error=True)
    assert said.startswith(f"{photo}: cannot be read as an image (")
    photo.write_bytes(whole)
    [cache] = (kit.parent / "cache/pictures-read").iterdir()
    cache.write_text("{")
    assert pictures(read(), kit) == [], "a cache that is broken is none"


def test_data_check_hashes_pictures_once_and_passes_over_broken_ones(kit: Path, read: Callable[..., Recipe]) -> None:
    def blanked(path: Path) -> None:
        """Its size and time as they were: whoever reads it again finds it broken."""
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    (kit / "JPEGImages/b.jpg").write_bytes((kit / "JPEGImages/c.jpg").read_bytes())
    (kit / "JPEGImages/a.jpg").write_bytes(b"no picture")
    told: list[str] = []
    first = inspect_data(open_devkit(kit), lambda what, done, total: told.append(f"{what} {done} of {total}"))
    assert [line.partition(": ")[0] for line in first.broken] == [f"{kit}/JPEGImages/a.jpg"]
    assert first.shared == ["1 of 'train' are in 'test' or look like one there, such as b, like c"]
    assert told[-1] == "pictures compared 3 of 3"
    for name in "bc":
        blanked(kit / f"JPEGImages/{name}.jpg")
    assert inspect_data(open_devkit(kit), lambda what, done, total: None) == first


def test_images_that_two_sets_share_are_found_by_name_and_by_content(
    kit: Path, read: Callable[..., Recipe], write_devkit: WriteDevkit
) -> None:
    write_devkit(kit, {"b": [DOG], "copy of a": [DOG], "other": []}, "test")
    for name, grey in (("a", 50), ("copy of a", 50), ("b", 100), ("other", 150)):
        Image.new("RGB", (100, 80), (grey, grey, grey)).save(kit / f"JPEGImages/{name}.jpg")
    shared = shared_images(open_devkit(kit), "train", "test")
    assert [annotation.image for annotation in shared] == ["b", "copy of a"]
    assert texts(pictures(read(), kit), is_error=False) == ["2 images of the test set are trained on, too, such as b"]
    assert texts(pictures(read("data.val=test", "data.test=train"), kit), is_error=False) == [
        "2 images of the validation set are trained on, too, such as b",
        "2 images of the test set are trained on, too, such as a",
        "2 images of the test set are in the validation set, too, such as a",
    ]


def test_a_data_set_with_one_image_set_is_told_how_it_is_split(kit: Path, read: Callable[..., Recipe]) -> None:
    for path in (kit / "ImageSets/Main").iterdir():
        path.rename(path.with_name("all.txt")) if path.stem == "train" else path.unlink()
    [finding] = annotation_findings(read(), open_devkit(kit))
    assert "no image set 'train'; expected one of: all; `data.split` makes train, val and test of it" in finding.text


def test_an_image_set_that_is_absent_is_refused_by_its_reader_too(kit: Path) -> None:
    with pytest.raises(InputError, match="no image set 'tset'; did you mean 'test'"):
        open_devkit(kit).image_set("tset")
