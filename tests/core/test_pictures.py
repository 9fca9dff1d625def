"""Pictures with boxes: their size, and what one that cannot be written stops."""

from pathlib import Path

import torch

from detpress.data import open_data
from detpress.report.pictures import draw_boxes, draw_stage_pictures
from detpress.voc.digits import CLASSES, write_digits


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
