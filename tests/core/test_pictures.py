"""Pictures with boxes: their size, their letters, and what one that cannot be written stops."""

from pathlib import Path

import pytest
import torch

from detpress.report.fonts import choose_lettering
from detpress.report.pictures import draw_boxes, draw_stage_pictures
from detpress.voc.digits import CLASSES, write_digits
from detpress.voc.named import open_data


def test_a_panel_of_a_wide_photograph_is_shrunk_with_its_boxes() -> None:
    image = torch.zeros(3, 20, 13500, dtype=torch.uint8)
    panel = draw_boxes(image, torch.tensor([[6750.0, 0.0, 13499.0, 19.0]]), ["cat"], ["cat"], "truth", [""])
    assert panel.shape[-1] == 640
    assert panel.shape[-2] < 40
    assert not panel[:, 16:, :310].any()
    assert panel[:, 16:, 310:].any()


def test_a_picture_that_cannot_be_written_is_said_and_the_others_are_drawn(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", {"test": 3})
    devkit = open_data(str(tmp_path / "digits"), list(CLASSES))
    first, *others = (annotation.image for annotation in devkit.image_set("test"))
    (tmp_path / "pictures" / f"{first}.jpg").mkdir(parents=True)
    said: list[str] = []
    drawn = draw_stage_pictures(devkit, "test", [], tmp_path / "pictures", said.append)
    assert [path.stem for path in drawn] == others
    [line] = said
    assert f"{first}.jpg cannot be drawn or written: " in line


@pytest.fixture
def one_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DejaVu Sans, which has letters of Europe and none of China, in the only folder that is searched."""
    matplotlib = pytest.importorskip("matplotlib")
    font = tmp_path / "fonts/plain/DejaVuSans.ttf"
    font.parent.mkdir(parents=True)
    font.write_bytes((Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf").read_bytes())
    (tmp_path / "fonts/a.ttf").write_text("no font")
    monkeypatch.setattr("detpress.report.fonts.FOLDERS", (str(tmp_path / "nowhere"), str(tmp_path / "fonts")))
    return font


def test_names_are_drawn_with_a_font_that_has_their_letters(one_font: Path) -> None:
    lettering = choose_lettering(["č", "ř", "a cat"])
    assert (lettering.font, lettering.numbered) == (str(one_font), {})
    image, box = torch.zeros(3, 320, 320, dtype=torch.uint8), torch.tensor([[10.0, 10.0, 200.0, 200.0]])
    c, r = (draw_boxes(image, box, ["cat"], ["cat"], labels=[label], font=lettering.font) for label in "čř")
    assert not torch.equal(c, r)


def test_names_that_can_be_read_in_the_usual_font_stay_in_it(one_font: Path) -> None:
    lettering = choose_lettering(["cat", "traffic light", "7"])
    assert lettering.font is None
    assert lettering.shown == {"cat": "cat", "traffic light": "traffic light", "7": "7"}


def test_names_that_no_font_can_write_are_numbers_and_so_are_names_that_would_be_taken_for_one(one_font: Path) -> None:
    lettering = choose_lettering(["č", "人", "cat", "1", "猫"])
    assert lettering.font == str(one_font), "it has more of the letters than the usual one"
    assert lettering.shown == {"č": "č", "人": "1", "cat": "cat", "1": "3", "猫": "4"}
    assert lettering.legend().endswith("their numbers (from 0) are drawn: 1 is 人, 3 is 1, 4 is 猫")
