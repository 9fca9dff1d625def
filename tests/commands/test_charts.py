"""`detpress report study.json --charts FOLDER`."""

import json
from pathlib import Path

import pytest
from command_line import Command


def test_the_charts_of_a_study_file_are_drawn_and_a_folder_is_refused(detpress: Command, tmp_path: Path) -> None:
    kept = Path(__file__).parents[2] / "docs/study/coding-cells"
    drawn = detpress("report", kept / "study.json", "--charts", tmp_path / "pictures")
    assert drawn.code == 0
    assert str(tmp_path / "pictures/front-macs.svg") in drawn.out.splitlines()
    refused = detpress("report", kept, "--charts", tmp_path)
    assert refused.code == 2
    assert f"--charts: expected a study.json, such as {kept / 'study.json'}, got {kept}" in refused.err


@pytest.mark.parametrize(
    ("fronts", "said"),
    [([], "nothing to draw: no row ended"), (["../macs"], "not what detpress writes: a chart of 'front-../macs'")],
)
def test_what_cannot_be_drawn_is_said(detpress: Command, tmp_path: Path, fronts: list[str], said: str) -> None:
    figures = {name: {"mean": 0.5} for name in ("map", "../macs")}
    row = {"name": "a", "simulated": [], "figures": figures, "map_interval": {"low": 0, "high": 1}, "fronts": fronts}
    (tmp_path / "study.json").write_text(json.dumps({"rows": [row]}))
    refused = detpress("report", tmp_path / "study.json", "--charts", tmp_path)
    assert refused.code == 2
    assert refused.err.endswith(f"study.json: {said}\n")
    assert not list(tmp_path.rglob("*.svg"))
