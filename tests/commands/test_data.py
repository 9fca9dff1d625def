"""`detpress data`: what is in a data set, a page to look at, and another layout; `split` in a recipe."""

import errno
import shutil
from pathlib import Path

import pytest
from command_line import Command
from PIL import Image


@pytest.fixture
def data(workplace: Path) -> Path:
    return Path(shutil.copytree(workplace / "digits", workplace / "copied"))


def test_a_good_data_set_is_counted_and_drawn(detpress: Command, data: Path, workplace: Path) -> None:
    said = detpress("data", "check", str(data), "--page", "data.html", "--json")
    assert said.code == 0, said.err
    assert set(said.json["sets"]) == {"train", "val", "trainval", "test"}
    train = said.json["sets"]["train"]
    assert train["images"] == len((data / "ImageSets/Main/train.txt").read_text().split())
    assert sum(train["objects"].values()) == sum(
        (data / f"Annotations/{image}.xml").read_text().count("<object>")
        for image in (data / "ImageSets/Main/train.txt").read_text().split()
    )
    assert said.json["sizes"] == {"160x160": 14}
    assert said.json["broken"] == said.json["shared"] == said.json["empty_boxes"] == []
    page = (workplace / "data.html").read_text()
    assert page.count("<figure>") == page.count("url(data:image/jpeg;base64,") > 0
    assert "<rect" in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_is_wrong_is_named_and_ends_with_1(detpress: Command, data: Path) -> None:
    (data / "Annotations/000001.xml").write_text("<annotation>\n<object>")
    picture = next((data / "JPEGImages").glob("000003.*"))
    picture.write_bytes(picture.read_bytes()[:400])
    train, test = ((data / f"ImageSets/Main/{name}.txt").read_text().split() for name in ("train", "test"))
    copied = next((data / "JPEGImages").glob(f"{train[-1]}.*"))
    smaller = Image.open(copied).resize((80, 80))
    smaller.save(data / "JPEGImages/again.png")
    outside = (
        "<object><name>one</name><bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>"
    )
    head = "<annotation><size><width>80</width><height>80</height></size>"
    (data / "Annotations/again.xml").write_text(f"{head}{outside.format(70, 90)}{outside.format(90, 95)}</annotation>")
    (data / "ImageSets/Main/test.txt").write_text("\n".join([*test, "again"]))
    said = detpress("data", "check", str(data))
    assert said.code == 1
    assert "Annotations/000001.xml:2: malformed XML" in said.out
    assert f"{picture}: cannot be read as an image" in said.out
    assert "1 of 'test' are in 'train' or look like one there, such as again" in said.out or (
        "1 of 'train' are in 'test' or look like one there" in said.out
    )
    assert "again.xml:1: object 1 (one): [70.0, 5.0, 90.0, 9.0] in 80x80" in said.out.partition("stick out")[2]
    assert "again.xml:1: object 2 (one): [90.0, 5.0, 95.0, 9.0] in 80x80" in said.out.partition("without area")[2]


def test_a_page_that_cannot_be_written_is_refused_before_the_work_or_costs_nothing_that_was_found(
    detpress: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("no/such/page.html", "."):
        said = detpress("data", "check", str(data), "--page", place)
        assert (said.code, said.out) == (2, "")
        assert said.err == f"detpress: --page {place}: expected a file in a folder that exists\n"

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "data.html")

    monkeypatch.setattr("detpress.report.data_page.data_page", full)
    said = detpress("data", "check", str(data), "--page", "data.html")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "sizes: 160x160 (14)" in said.out


def test_a_recipe_splits_one_image_set_by_a_seed(detpress: Command, data: Path, workplace: Path) -> None:
    shutil.rmtree(data / "ImageSets")
    settings = ("--set", "data.root=copied", "--set", "data.split={val: 0.2, test: 0.3, seed: 5}", "--set", "chain=[]")
    said = detpress("run", "small.yaml", *settings, "--json")
    assert said.code == 0, said.err
    assert "Pascal VOC without image sets, 'all' split by seed 5, image sets test (" in said.err
    split = {"val": 0.2, "test": 0.3, "folds": None, "fold": None, "seed": 5, "of": None}
    assert said.json["recipe"]["data"]["split"] == split
    assert detpress("report", "runs/small").code == 0
    refused = detpress("validate", "small.yaml", "--set", "data.split={val: 0.7, test: 0.3}")
    assert refused.code == 2
    assert "data.split: " in refused.err
    assert "their sum is above 0 and below 1" in refused.err


def test_a_data_set_is_converted_and_scores_the_same(detpress: Command, bundle: Path, workplace: Path) -> None:
    scores = []
    for target in ("yolo", "coco", "voc"):
        said = detpress("data", "convert", "digits", "--to", target, "--out", target)
        assert said.code == 0, said.err
        assert said.out.startswith(f"{target}: ")
        scored = detpress("evaluate", str(bundle), "--data", target, "--json")
        assert scored.code == 0, scored.err
        scores.append(scored.json["ap"])
    assert scores[0] == scores[1] == scores[2]
    again = detpress("data", "convert", "digits", "--to", "yolo", "--out", "yolo")
    assert (again.code, again.err) == (2, "detpress: yolo: not empty; expected a folder to be made\n")
    assert detpress("data", "convert", "digits", "--to", "yollo", "--out", "x").err.endswith("did you mean 'yolo'?\n")


def test_a_conversion_tells_how_far_it_is(detpress: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detpress.run.terminal.PLAIN_SECONDS", -1.0)
    said = detpress("data", "convert", "digits", "--to", "yolo", "--out", "yolo")
    assert "  image sets read: 4 of 4\n" in said.err
    assert "  pictures copied: 14 of 14\n" in said.err


def test_the_same_pictures_to_train_on_and_to_validate_by_are_told(detpress: Command, data: Path) -> None:
    (data / "ImageSets/Main/val.txt").write_text((data / "ImageSets/Main/train.txt").read_text())
    said = detpress("data", "check", str(data))
    assert "8 of 'val' are in 'train' or look like one there, such as 000001" in said.out
