"""A detector whose weights are worked out by hand and whose data are white squares: all that is right scores 1."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from command_line import Command
from PIL import Image

SIDE, CELL, SQUARE = 512, 32, 24  # pixels of the picture, of a cell, of the square in the middle of a cell
POOL = "[maxpool]\nsize=2\nstride=2\n"
CFG = f"""\
[net]
width={SIDE}
height={SIDE}
channels=3
letter_box=1
{POOL * 5}
[convolutional]
filters=6
size=1
stride=1
activation=linear
[yolo]
mask=0
anchors={SQUARE},{SQUARE}
classes=1
num=1
"""
RECIPE = """\
name: squares
data: {root: kit}
model: {weights: detector}
chain: []
measure: {runtimes: [torch], memory: false}
"""


def detector(detpress: Command, name: str = "cell", mark: str = "") -> Path:
    """Finds a square where the middle of a cell is white: the weights of objectness sum up its colours."""
    numbers = np.zeros((6, 4), "<f4")  # filters x0, y0, width, height, objectness, class: bias, then red, green, blue
    numbers[4] = -30, 14, 13, 13
    numbers[5, 0] = 10
    Path("squares.cfg").write_text(mark + CFG, encoding="utf-8")
    Path("squares.names").write_text(f"{mark}{name}\n", encoding="utf-8")
    header = struct.pack("<iiiq", 0, 2, 5, 0)
    Path("squares.weights").write_bytes(header + numbers[:, 0].tobytes() + numbers[:, 1:].tobytes())
    made = detpress("import", "squares.cfg", "squares.weights", "--classes", "squares.names", "--out", "detector")
    assert made.code == 0, made.err
    return Path("detector")


def write_kit(image: str = "a", name: str = "cell", rows: int = 4, more: str = "", mark: str = "") -> Path:
    """A picture of `rows` times 16 squares, all of them annotated, for all three image sets. more: other objects."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    edge = (CELL - SQUARE) // 2
    objects = ""
    for top in range(edge, rows * CELL, CELL):
        for left in range(edge, SIDE, CELL):
            pixels[top : top + SQUARE, left : left + SQUARE] = 255
            objects += box(name, left + 1, top + 1, left + SQUARE, top + SQUARE)
    kit = Path("kit")
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (kit / folder / image).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(kit / f"JPEGImages/{image}.png")
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
    (kit / f"Annotations/{image}.xml").write_text(f"<annotation>{size}\n{objects}{more}</annotation>", encoding="utf-8")
    for split in ("train", "val", "test"):
        (kit / f"ImageSets/Main/{split}.txt").write_text(f"{mark}{image}\n", encoding="utf-8")
    Path("squares.yaml").write_text(RECIPE)
    return kit


def box(name: str, *sides: int) -> str:
    xmin, ymin, xmax, ymax = sides
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>\n"


@pytest.fixture(autouse=True)
def _in_the_workplace(workplace: Path) -> None:
    """The working directory is the test's own."""


@pytest.mark.parametrize("protocol", ["voc07", "voc10"])
def test_more_than_a_hundred_objects_are_all_found_where_the_limit_allows_it(detpress: Command, protocol: str) -> None:
    model, kit = detector(detpress), write_kit(rows=16)
    asked = ("evaluate", model, "--data", kit, "--protocol", protocol, "--json")
    few, all_of_them = detpress(*asked).json, detpress(*asked, "--max-detections", 300).json
    assert (few["max_detections"], few["images_at_max_detections"]) == (100, 1)
    assert few["map"] < 0.4
    assert (all_of_them["max_detections"], all_of_them["images_at_max_detections"]) == (300, 0)
    assert all_of_them["map"] == pytest.approx(1.0, abs=1e-12)


def test_detect_lists_as_many_objects_as_the_limit_allows_and_says_so(detpress: Command) -> None:
    picture = write_kit(rows=16) / "JPEGImages/a.png"
    model = detector(detpress)
    said = detpress("detect", model, picture, "--json")
    assert len(said.json[0]["objects"]) == 100
    assert f"{picture}: only the best 100 objects are kept: see --max-detections" in said.err
    said = detpress("detect", model, picture, "--json", "--max-detections", 300, "--out", "more")
    assert (len(said.json[0]["objects"]), said.err) == (256, "")


def test_run_says_that_images_hold_more_objects_than_are_kept(detpress: Command) -> None:
    detector(detpress)
    write_kit(rows=16)
    said = detpress("run", "squares.yaml", "--json")
    assert "1 images of 'test' hold more objects, up to 256, than the 100 detections that are kept" in said.err
    assert said.json["stages"][0]["metrics"]["map"] < 0.4
    said = detpress("run", "squares.yaml", "--json", "--set", "measure.max_detections=256")
    assert "than the" not in said.err
    assert said.json["stages"][0]["metrics"]["map"] == pytest.approx(1.0, abs=1e-12)


def test_a_run_on_pictures_in_subfolders_ends_with_its_table_and_pictures(detpress: Command) -> None:
    detector(detpress)
    write_kit("cam1/night/a")
    said = detpress("run", "squares.yaml")
    assert said.code == 0, said.err
    assert "0 model" in said.out
    assert Path("runs/squares/pictures/cam1/night/a.jpg").is_file()
    results = json.loads(Path("runs/squares/results.json").read_text())
    assert results["stages"][0]["metrics"]["map"] == pytest.approx(1.0, abs=1e-12)
    assert (detpress("report", "runs/squares")).code == 0


def test_a_class_with_a_slash_is_run_scored_and_read_back(detpress: Command) -> None:
    detector(detpress, "car/truck")
    kit = write_kit(name="car/truck")
    assert detpress("validate", "squares.yaml").code == 0
    said = detpress("run", "squares.yaml", "--json")
    assert said.json["stages"][0]["metrics"]["ap"] == {"car/truck": pytest.approx(1.0, abs=1e-12)}
    said = detpress("evaluate", "--results", "runs/squares/0-model/results", "--data", kit, "--json")
    assert said.json["ap"] == {"car/truck": pytest.approx(1.0, abs=1e-12)}


def test_a_name_that_no_font_can_write_is_drawn_as_its_number_and_a_legend_says_so(
    detpress: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detpress.report.fonts.FOLDERS", ())
    of_zeros, of_people = detector(detpress, "0").rename("of-zeros"), detector(detpress, "人")
    picture = write_kit(name="人") / "JPEGImages/a.png"
    assert detpress("detect", of_zeros, picture, "--out", "zeros").err == ""
    said = detpress("detect", of_people, picture, "--out", "people", "--json")
    assert "their numbers (from 0) are drawn: 0 is 人" in said.err
    assert said.json[0]["objects"][0]["class"] == "人"
    assert Path("people/a.png").read_bytes() == Path("zeros/a.png").read_bytes()
    assert "their numbers (from 0) are drawn: 0 is 人" in detpress("run", "squares.yaml").err
    assert detpress("report", "runs/squares").code == 0
    page = Path("runs/squares/report.html").read_text(encoding="utf-8")
    assert "<li>0: 人</li>" in page
    assert 'data-tip="0 1.00"' in page


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_picture_shrunk_after_it_was_annotated_is_refused_with_both_sizes(detpress: Command, command: str) -> None:
    detector(detpress)
    picture = write_kit() / "JPEGImages/a.png"
    Image.open(picture).resize((256, 256)).save(picture)
    said = detpress(command, "squares.yaml")
    assert (said.code, said.out) == (2, "")
    place = picture.absolute()
    assert said.err.endswith(f"detpress: {place}: 256x256 pixels, but its annotation says 512x512\n")


def test_a_wrong_box_in_the_test_set_is_said_before_the_work_and_ends_nothing(detpress: Command) -> None:
    detector(detpress)
    write_kit(more=box("cell", 400, 400, 390, 410))
    said = detpress("run", "squares.yaml")
    assert said.code == 0, said.err
    said_first = said.err.index("1 boxes of 'test' have no area or lie off the image, such as object 65 of ")
    assert said_first < said.err.index("[0/0] model")
    assert "cannot be drawn" not in said.err
    assert Path("runs/squares/pictures/a.jpg").is_file()


def test_byte_order_marks_are_passed_over(detpress: Command) -> None:
    model, kit = detector(detpress, mark="\ufeff"), write_kit(mark="\ufeff")
    said = detpress("evaluate", model, "--data", kit, "--json")
    assert said.json["ap"] == {"cell": pytest.approx(1.0, abs=1e-12)}
