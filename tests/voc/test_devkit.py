"""Devkits: which folders, image sets, images and classes are found, and what is refused."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detpress.errors import InputError
from detpress.voc.devkit import check_boxes, open_devkit

WriteDevkit = Callable[..., Path]

DOG, CAT = ("dog", (10, 10, 40, 50), False), ("cat", (1, 1, 100, 80), True)
IMAGES = {"b": [DOG, CAT], "a": [DOG], "c": []}


def test_an_image_set_is_read_in_the_files_order(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    devkit = open_devkit(write_devkit(tmp_path, IMAGES))
    assert devkit.image_set_names == ("test",)
    assert [annotation.image for annotation in devkit.image_set("test")] == ["b", "a", "c"]
    assert [annotation.names for annotation in devkit.image_set("test")] == [("dog", "cat"), ("dog",), ()]


def test_classes_are_those_of_all_image_sets_or_those_given(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, {"x": [DOG]}, "train")
    write_devkit(tmp_path, {"y": [CAT]}, "test")
    write_devkit(tmp_path, {"z": [("cow", (1, 1, 5, 5), False)]}, "val")
    (tmp_path / "ImageSets/Main/val.txt").unlink()
    assert open_devkit(tmp_path).classes == ("cat", "dog")
    assert open_devkit(tmp_path, ["dog", "cat", "bird"]).classes == ("dog", "cat", "bird")


def test_the_years_below_a_vocdevkit_are_joined(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path / "VOC2012", {"2008_000002": [CAT]}, "trainval")
    write_devkit(tmp_path / "VOC2007", {"000005": [DOG], "000007": [DOG]}, "trainval")
    write_devkit(tmp_path / "VOC2007", {"000001": [DOG]}, "test")
    devkit = open_devkit(tmp_path)
    assert devkit.image_set_names == ("test", "trainval")
    trainval = devkit.image_set("trainval")
    assert [annotation.image for annotation in trainval] == ["000005", "000007", "2008_000002"]
    assert devkit.image_path(trainval[2]) == tmp_path / "VOC2012/JPEGImages/2008_000002.jpg"
    assert devkit.classes == ("cat", "dog")
    assert [annotation.image for annotation in open_devkit(tmp_path / "VOC2007").image_set("test")] == ["000001"]


def test_sets_of_a_class_can_be_read_and_are_not_listed(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, IMAGES)
    (tmp_path / "ImageSets/Main/dog_test.txt").write_text("a  1\nc -1\n\n")
    devkit = open_devkit(tmp_path)
    assert devkit.image_set_names == ("test",)
    assert [annotation.image for annotation in devkit.image_set("dog_test")] == ["a", "c"]


@pytest.mark.parametrize("name", ["img (1) a", "a 1", "a  b", "a -1 1"])
def test_an_images_name_may_hold_spaces(tmp_path: Path, write_devkit: WriteDevkit, name: str) -> None:
    devkit = open_devkit(write_devkit(tmp_path, {name: [DOG], "b": [DOG]}))
    assert devkit.image_set_names == ("test",)
    assert [annotation.image for annotation in devkit.image_set("test")] == [name, "b"]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, {"é": [DOG], "b": [CAT]})
    for path in [*tmp_path.rglob("*.xml"), *tmp_path.rglob("*.txt")]:
        path.write_text(path.read_text(), encoding="utf-8-sig")
    devkit = open_devkit(tmp_path)
    assert [annotation.image for annotation in devkit.image_set("test")] == ["é", "b"]
    assert devkit.classes == ("cat", "dog")


def test_sets_that_nobody_asks_for_are_not_needed(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, IMAGES)
    sets = tmp_path / "ImageSets/Main"
    (sets / "withheld.txt").write_text("withheld\nb\n../../elsewhere\n")
    (sets / "binary.txt").write_bytes(b"\xff\xfe\n")
    (sets / "._test.txt").write_bytes(b"\0\5\x16\7 AppleDouble")
    (tmp_path / "Annotations/._a.xml").write_bytes(b"\0\5\x16\7 AppleDouble")
    devkit = open_devkit(tmp_path)
    assert devkit.image_set_names == ("test", "withheld")
    assert devkit.classes == ("cat", "dog")
    with pytest.raises(InputError, match=r"withheld\.txt:1: image 'withheld' has no annotation"):
        devkit.image_set("withheld")


def test_names_that_no_file_can_have_are_told(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, IMAGES)
    (tmp_path / "ImageSets/Main/test.txt").write_text(f"a\n{'x' * 300}\n")
    with pytest.raises(InputError, match=r"test\.txt:2: image 'x+\.\.\.x+' has no annotation"):
        open_devkit(tmp_path).image_set("test")
    with pytest.raises(InputError, match=r"no image set 'y+'"):
        open_devkit(tmp_path).image_set("y" * 300)
    with pytest.raises(InputError, match=r"z+: no such folder"):
        open_devkit(tmp_path / ("z" * 300))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".JPG", ".JPeG", ".bmp", ".TIFF", ".webp"])
def test_images_by_any_usual_suffix(tmp_path: Path, write_devkit: WriteDevkit, suffix: str) -> None:
    write_devkit(tmp_path, {"a": [DOG]})
    image = (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / f"JPEGImages/a{suffix}")
    devkit = open_devkit(tmp_path)
    assert devkit.image_path(devkit.image_set("test")[0]) == image


def test_images_may_lie_in_folders(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, {"a": [DOG]})
    for part, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (tmp_path / part / "day").mkdir()
        (tmp_path / part / f"a.{suffix}").rename(tmp_path / part / f"day/a.{suffix}")
    (tmp_path / "ImageSets/Main/test.txt").write_text("day/a\n")
    devkit = open_devkit(tmp_path)
    (annotation,) = devkit.image_set("test")
    assert annotation.image == "day/a"
    assert devkit.image_path(annotation) == tmp_path / "JPEGImages/day/a.jpg"


def test_evaluation_needs_no_images(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, IMAGES)
    shutil.rmtree(tmp_path / "JPEGImages")
    devkit = open_devkit(tmp_path)
    (b, *_) = devkit.image_set("test")
    with pytest.raises(InputError, match=r"b\.xml: its image .*JPEGImages/b\.jpg does not exist"):
        devkit.image_path(b)


def fingerprint(root: Path, *names: str) -> str:
    return open_devkit(root).fingerprint(names or ["test"])


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    root = write_devkit(tmp_path / "here", IMAGES)
    before = fingerprint(root)
    shutil.copytree(root, tmp_path / "there", copy_function=shutil.copy)  # new times
    write_devkit(tmp_path / "there", {"of another set": [CAT]}, "train")
    assert fingerprint(tmp_path / "there") == before
    assert open_devkit(root, ["dog", "cat"]).fingerprint(["test"]) != before, "class indices are other ones"


@pytest.mark.parametrize("name", ["Annotations/a.xml", "JPEGImages/a.jpg", "ImageSets/Main/test.txt"])
def test_the_fingerprint_changes_with_each_file(tmp_path: Path, write_devkit: WriteDevkit, name: str) -> None:
    before = fingerprint(write_devkit(tmp_path, IMAGES))
    if name.startswith("ImageSets"):
        (tmp_path / name).write_text("a\nb\nc\n")
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
    assert fingerprint(tmp_path) != before


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder; expected a VOC devkit"):
        open_devkit(tmp_path / "absent")


def test_a_folder_that_is_no_devkit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ImageSets/Main: no such folder; expected a VOC devkit"):
        open_devkit(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nabsent\n", r"test\.txt:2: image 'absent' has no annotation: .*Annotations/absent\.xml does not exist"),
        ("a\nb\n\na\n", r"test\.txt:4: image 'a' was named before, at .*test\.txt:1"),
        ("../../b\n", r"test\.txt:1: '\.\./\.\./b' climbs out of the data set's folder"),
        ("day/../../b\n", r"test\.txt:1: .* climbs out"),
        ("/etc/passwd\n", r"test\.txt:1: '/etc/passwd' climbs out"),
        ("\n \n", r"test\.txt: empty; expected the name of an image a line"),
        ("\udcff\n", r"test\.txt: cannot be read as an image set: .*utf-8"),
    ],
)
def test_a_bad_image_set(tmp_path: Path, write_devkit: WriteDevkit, content: str, message: str) -> None:
    write_devkit(tmp_path, IMAGES)
    (tmp_path / "ImageSets/Main/test.txt").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        open_devkit(tmp_path).image_set("test")


def test_an_image_of_two_years_is_refused_where_they_are_joined(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_devkit(tmp_path / year, {"same": [DOG]})
    with pytest.raises(InputError, match=r"VOC2012.*test\.txt:1: image 'same' was named before, at .*VOC2007"):
        open_devkit(tmp_path).image_set("test")


@pytest.mark.parametrize("name", ["tset", "../Main/test", "../../../elsewhere"])
def test_no_such_image_set(tmp_path: Path, write_devkit: WriteDevkit, name: str) -> None:
    write_devkit(tmp_path, IMAGES)
    with pytest.raises(InputError, match=f"no image set '{re.escape(name)}'; .*test"):
        open_devkit(tmp_path).image_set(name)


def test_a_class_that_is_not_in_the_list(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    devkit = open_devkit(write_devkit(tmp_path, IMAGES), ["dog", "cats"])
    message = (
        r"Annotations/b\.xml:8: object 2: class 'cat' is not in the recipe's or detector's list; did you mean 'cats'\?"
    )
    with pytest.raises(InputError, match=message):
        devkit.image_set("test")


def test_a_class_in_two_lines_is_refused_with_its_place(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    devkit = open_devkit(write_devkit(tmp_path, {"a": [("dog\nbig", (1, 1, 20, 20), False)]}))
    with pytest.raises(InputError, match=r"a\.xml:3: object 1: class 'dog\\nbig': expected a name in UTF-8, "):
        devkit.image_set("test")


def test_degenerate_boxes_are_listed_or_refused(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    flat, off = ("dog", (10, 10, 10, 50), False), ("dog", (200, 10, 210, 50), False)
    annotations = open_devkit(write_devkit(tmp_path, {"a": [DOG, flat], "b": [off, CAT]})).image_set("test")
    found = check_boxes(annotations, "skip")
    assert [(annotation.image, index) for annotation, index in found] == [("a", 1), ("b", 0)]
    message = r"a\.xml:8: object 2 \(dog\): box \[10.0, 10.0, 10.0, 50.0\] has no area or lies outside 100x80; 2 such"
    with pytest.raises(InputError, match=message):
        check_boxes(annotations, "refuse")
    assert check_boxes(annotations[:0], "refuse") == []
