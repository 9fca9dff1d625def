"""Image sets made of one by a seed: about their shares, and look-alikes on one side."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from voc_xml import annotation_xml

from detpress.errors import InputError
from detpress.voc.lookalikes import ALIKE, difference_hash, difference_hashes, groups_alike
from detpress.voc.named import open_data
from detpress.voc.split import Split
from detpress.voc.splitting import divide

SCENES, COPIES = 20, 5  # of the first scene


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty scenes; of the first, four more pictures: smaller, compressed harder, brighter, as another format."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(SCENES):
        coarse = Image.fromarray(generator.integers(0, 200, (12, 16, 3), np.uint8))
        scene = coarse.resize((320, 240), Image.Resampling.BICUBIC)
        scene.save(root / f"scene{number:02}.jpg", quality=90)
        if number == 0:
            scene.resize((160, 120)).save(root / "copy1.jpg")
            scene.save(root / "copy2.jpg", quality=20)
            scene.point(lambda value: value * 1.2).save(root / "copy3.jpg")
            scene.save(root / "copy4.png")
    for picture in list(root.iterdir()):
        width, height = Image.open(picture).size
        picture.with_suffix(".xml").write_text(annotation_xml([("dog", (10, 10, 40, 50), False)], width, height))
    return root


def parts(root: Path, split: Split) -> dict[str, list[str]]:
    data = open_data(str(root), split=split)
    return {name: [annotation.image for annotation in data.image_set(name)] for name in data.image_set_names}


def test_copies_of_a_picture_stay_together_and_scenes_apart(photos: Path) -> None:
    paths = sorted(path for path in photos.iterdir() if path.suffix != ".xml")
    groups = groups_alike(np.stack([difference_hash(path) for path in paths]))
    assert sorted(map(len, groups)) == [1] * (SCENES - 1) + [COPIES]
    found = parts(photos, Split(val=0.2, test=0.2))
    assert {name: len(images) for name, images in found.items()} == {"train": 14, "val": 5, "test": 5}
    assert sorted(image for images in found.values() for image in images) == sorted(path.stem for path in paths)
    copies = {"scene00", "copy1", "copy2", "copy3", "copy4"}
    assert [name for name, images in found.items() if copies & set(images)] == ["train"]


def test_the_seed_decides_and_nothing_else(photos: Path) -> None:
    split = Split(val=0.25, seed=3)
    found = parts(photos, split)
    assert found.keys() == {"train", "val"}
    assert parts(photos, split) == found
    assert parts(photos, Split(val=0.25, seed=4)) != found


def test_image_sets_that_are_there_stay(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "train").symlink_to(photos)
    (tmp_path / "test").symlink_to(photos)
    found = parts(tmp_path, Split(val=0.25))
    assert len(found["test"]) == len(found["train"]) + len(found["val"]) == SCENES + COPIES - 1
    with pytest.raises(InputError, match="there is an image set 'test' already"):
        parts(tmp_path, Split(val=0.1, test=0.1))
    with pytest.raises(InputError, match=r"data\.split\.of: expected one of the image sets: test, train"):
        parts(tmp_path, Split(val=0.1, of="trian"))


def test_pictures_that_all_look_alike_cannot_be_split(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(annotation_xml([]))
    with pytest.raises(InputError, match="no image is left for 'val': of 3 images in 'all', up to 3 look alike"):
        parts(tmp_path, Split(val=0.3))


def test_each_image_is_tested_in_one_fold_and_look_alikes_in_the_same(photos: Path) -> None:
    folds = [parts(photos, Split(folds=4, fold=fold, val=0.2)) for fold in range(4)]
    every = sorted(path.stem for path in photos.iterdir() if path.suffix != ".xml")
    assert sorted(image for fold in folds for image in fold["test"]) == every
    copies = {"scene00", "copy1", "copy2", "copy3", "copy4"}
    for fold in folds:
        assert sorted(image for images in fold.values() for image in images) == every
        assert [len(fold[name]) for name in ("train", "val", "test")] == [13, 5, 6]
        assert any(copies <= set(images) for images in fold.values())
    assert [parts(photos, Split(folds=4, fold=fold))["test"] for fold in range(4)] == [fold["test"] for fold in folds]


def test_folds_take_the_images_of_all_sets_once(tmp_path: Path, photos: Path) -> None:
    for name, numbers in (("train", range(1, 9)), ("val", range(9, 13)), ("test", range(13, 20))):
        (tmp_path / name).mkdir()
        for number in numbers:
            for suffix in (".jpg", ".xml"):
                (tmp_path / f"{name}/scene{number:02}{suffix}").symlink_to(photos / f"scene{number:02}{suffix}")
    folds = [parts(tmp_path, Split(folds=2, fold=fold)) for fold in (0, 1)]
    assert [fold.keys() for fold in folds] == [{"train", "test"}] * 2
    assert folds[0]["train"] == folds[1]["test"]
    assert len(folds[0]["train"] + folds[0]["test"]) == 19


def test_two_images_of_one_name_in_two_sets_are_refused(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    (tmp_path / "annotations").mkdir()
    for name in ("train", "test"):
        said = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
        (tmp_path / f"annotations/{name}.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="another image is called a, at "):
        parts(tmp_path, Split(folds=2, fold=0))


@pytest.mark.parametrize(
    "given", [{"folds": 3, "test": 0.1}, {"folds": 3, "fold": 3}, {"fold": 0, "val": 0.1}, {"folds": 2, "val": 0.5}]
)
def test_folds_that_cannot_be(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Split(**given)


def test_a_picture_is_hashed_again_only_when_it_changed(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))
    picture = tmp_path / "a.jpg"
    picture.write_bytes((photos / "scene01.jpg").read_bytes())
    told = []
    first = difference_hashes([picture], tmp_path, lambda what, done, total: told.append((done, total)))
    assert (first == difference_hash(photos / "scene01.jpg")).all()
    assert told == [(1, 1)]
    state = picture.stat()
    picture.write_bytes(bytes(state.st_size))
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (difference_hashes([picture], tmp_path) == first).all(), "neither its size nor its time changed"
    picture.write_bytes((photos / "scene02.jpg").read_bytes())
    assert (difference_hashes([picture], tmp_path) == difference_hash(photos / "scene02.jpg")).all()


@pytest.mark.parametrize("shares", [{}, {"val": 0.5, "test": 0.5}, {"val": -0.1}, {"val": 1.0}])
def test_shares_must_leave_some(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Split(**shares)


@given(st.lists(st.integers(1, 6), min_size=10, max_size=60), st.integers(0, 9))
def test_groups_are_divided_whole_and_about_by_the_shares(sizes: list[int], seed: int) -> None:
    ends = np.cumsum(sizes)
    groups = [list(range(end - size, end)) for end, size in zip(ends.tolist(), sizes, strict=True)]
    shares = [0.7, 0.1, 0.2]
    found = divide(groups, shares, seed)
    assert sorted(index for part in found for index in part) == list(range(sum(sizes)))
    of = {index: number for number, part in enumerate(found) for index in part}
    assert all(len({of[index] for index in group}) == 1 for group in groups)
    for share, part in zip(shares, found, strict=True):
        assert abs(len(part) - share * sum(sizes)) <= max(sizes)


def test_a_group_is_what_look_alikes_connect() -> None:
    bits = np.zeros((4, 256), bool)
    bits[1, :ALIKE] = bits[2, : 2 * ALIKE] = True
    bits[3, 200:] = True
    assert groups_alike(np.packbits(bits, axis=1).view(np.uint64)) == [[0, 1, 2], [3]]
    assert Counter(map(len, groups_alike(np.zeros((5, 4), np.uint64)))) == {5: 1}
