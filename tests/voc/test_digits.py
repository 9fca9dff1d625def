"""The generated devkit: the same bytes every time, tight boxes, image sets that share no digit, never half made."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from defusedxml.ElementTree import parse
from PIL import Image

from detpress.progress import Progress
from detpress.voc.digits import (
    CLASSES,
    SIDE,
    Source,
    compose,
    digits_root,
    ensure_digits,
    read_sources,
    write_digits,
)
from detpress.voc.download import get_data_set
from detpress.voc.named import open_data

SMALL = {"train": 20, "val": 4, "test": 8}


def digest(root: Path) -> str:
    """SHA-256 over all names and contents below a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, SMALL)
    return root


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(small: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "again", SMALL)
    write_digits(tmp_path / "other", SMALL, seed=1)
    assert digest(tmp_path / "again") == digest(small)
    assert digest(tmp_path / "other") != digest(small)


def test_image_sets_have_the_counts_asked_for_and_share_no_image(small: Path) -> None:
    sets = {path.stem: path.read_text().split() for path in (small / "ImageSets/Main").iterdir()}
    assert {name: len(ids) for name, ids in sets.items()} == {**SMALL, "trainval": 24}
    assert sets["trainval"] == sets["train"] + sets["val"]
    assert sorted(sets["trainval"] + sets["test"]) == sorted(path.stem for path in (small / "JPEGImages").iterdir())


def test_every_image_is_160_pixels_with_one_to_five_boxes_inside(small: Path) -> None:
    for path in sorted((small / "Annotations").iterdir()):
        root = parse(path).getroot()
        with Image.open(small / "JPEGImages" / root.findtext("filename")) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIDE, SIDE))
        objects = root.findall("object")
        assert 1 <= len(objects) <= 5
        for item in objects:
            assert item.findtext("name") in CLASSES
            xmin, ymin, xmax, ymax = (int(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
            assert 1 <= xmin < xmax <= SIDE
            assert 1 <= ymin < ymax <= SIDE


def test_image_sets_share_no_digit_and_every_digit_is_used() -> None:
    pools = {
        split: {(label, digit.tobytes()) for label, of in enumerate(source.digits) for digit in of}
        for split, source in read_sources(seed=0).items()
    }
    assert sum(map(len, pools.values())) == 1797
    assert len(set.union(*pools.values())) == 1797


def test_a_box_is_the_visible_ink_in_one_based_inclusive_pixels() -> None:
    """One black square of 8x8 grey values on white, so that the ink can be found in the image itself."""
    square = np.zeros((8, 8), np.uint8)
    square[2:6, 2:6] = 255
    white = Image.new("RGB", (SIDE, SIDE), "white")
    for seed in range(20):
        image, objects = compose(np.random.default_rng(seed), Source([[square]] * 10, [white]))
        if len(objects) != 1:
            continue
        ink = np.abs(255 - image.astype(int)).max(2)
        rows, columns = np.nonzero(ink > 0.4 * ink.max())
        expected = [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(objects[0][3]) - expected).max() <= 1  # the opacity's threshold falls between two pixels
        return
    pytest.fail("no image with one digit")


def test_difficult_and_truncated_digits_are_few_but_there() -> None:
    source = read_sources(seed=0)["train"]
    objects = [item for seed in range(300) for item in compose(np.random.default_rng(seed), source)[1]]
    truncated, difficult = (np.mean([item[key] for item in objects]) for key in (1, 2))
    assert 0.005 < truncated < 0.05
    assert 0.005 < difficult < 0.05


def test_the_cache_is_filled_once_and_again_when_files_are_missing(small: Path, tmp_path: Path) -> None:
    root = ensure_digits(tmp_path, counts=SMALL)
    made = root.stat().st_ino
    assert digest(root) == digest(small)
    assert ensure_digits(tmp_path, counts=SMALL).stat().st_ino == made

    next((root / "JPEGImages").iterdir()).unlink()
    assert digest(ensure_digits(tmp_path, counts=SMALL)) == digest(small)
    shutil.rmtree(root / "Annotations")
    assert digest(ensure_digits(tmp_path, counts=SMALL)) == digest(small)
    assert {path.name for path in tmp_path.iterdir()} <= {root.name, "digits.lock"}


def test_whoever_asks_for_the_digits_is_told_how_they_are_made(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(cache: Path, progress: Progress) -> Path:
        progress("digits train", 1, 20)
        return small

    told: list[tuple[str, int, int]] = []
    for module in ("named", "download"):
        monkeypatch.setattr(f"detpress.voc.{module}.ensure_digits", made)
    open_data("builtin:digits", progress=lambda *said: told.append(said))
    get_data_set("digits", progress=lambda *said: told.append(said))
    assert told == [("digits train", 1, 20)] * 2


def test_a_generator_that_stops_half_way_leaves_no_devkit(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_digits(tmp_path, stop, SMALL)
    assert not digits_root(tmp_path).exists()


def test_two_processes_at_once_make_one_devkit(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from detpress.voc.digits import ensure_digits\n"
        f"ensure_digits(Path(sys.argv[1]), lambda *made: print(*made), {SMALL!r})"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(len(lines.splitlines()) for lines in printed) == [0, sum(SMALL.values())]
    assert digest(digits_root(tmp_path)) == digest(small)
