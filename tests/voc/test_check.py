"""What is wrong with a data set is seen before anything is computed with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from detpress.errors import InputError
from detpress.voc.check import check_pictures, shared_images
from detpress.voc.devkit import open_devkit

WriteDevkit = Callable[..., Path]
DOG = ("dog", (10, 10, 40, 50), False)


def test_images_that_two_sets_share_are_found_by_name_and_by_content(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    write_devkit(tmp_path, {"a": [DOG], "b": [DOG, DOG]}, "train")
    write_devkit(tmp_path, {"b": [DOG, DOG], "copy of a": [DOG], "other": []}, "test")
    for name, grey in (("a", 50), ("copy of a", 50), ("b", 100), ("other", 150)):
        Image.new("RGB", (100, 80), (grey, grey, grey)).save(tmp_path / f"JPEGImages/{name}.jpg")
    shared = shared_images(open_devkit(tmp_path), "train", "test")
    assert [annotation.image for annotation in shared] == ["b", "copy of a"]


def test_a_picture_of_another_size_or_absent_is_refused(tmp_path: Path, write_devkit: WriteDevkit) -> None:
    devkit = open_devkit(write_devkit(tmp_path, {"a": [DOG]}))
    check_pictures(devkit, ["test"])
    Image.new("RGB", (50, 40)).save(tmp_path / "JPEGImages/a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg: 50x40 pixels, but its annotation says 100x80"):
        check_pictures(devkit, ["test"])
    (tmp_path / "JPEGImages/a.jpg").unlink()
    with pytest.raises(InputError, match=r"a\.xml: its image .* does not exist"):
        check_pictures(devkit, ["test"])
