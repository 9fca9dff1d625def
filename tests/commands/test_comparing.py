"""`detpress compare` by its options: which rows run, what they are chosen by, and where results go."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Command

from detpress.study.running import Outcome, run_study

STUDY = """\
name: {name}
shared:
  data: {{root: digits}}
  model: {{arch: yolov3-tiny, width: 0.0625, image_size: 64}}
  measure: {{runtimes: [], memory: false}}
recipes:
  - {{name: whole, chain: []}}
  - {{name: half, chain: [nni.l1norm: {{sparsity: 0.5}}]}}
  - {{name: third, chain: [nni.l1norm: {{sparsity: 0.3}}]}}
"""


@pytest.fixture
def study(workplace: Path) -> str:
    (workplace / "two.yaml").write_text(STUDY.format(name="two"))
    return "two.yaml"


def test_some_rows_run_alone_and_the_rest_later(detpress: Command, study: str) -> None:
    assert [row["name"] for row in detpress("compare", study, "--only", "third", "--json").json["rows"]] == [
        "whole",
        "third",
    ]
    later = detpress("compare", study, "--json").json
    made = {job["row"]: [not stage["reused"] for stage in job["stages"]] for job in later["jobs"]}
    assert made == {"whole": [False], "half": [False, True], "third": [False, False]}


def test_nothing_is_chosen_by_a_figure_that_no_row_has(detpress: Command, study: str) -> None:
    for choice in (["--where", "latency_ms.torch.median < 5"], ["--best", "latency_ms.torch.median"]):
        said = detpress("compare", study, "--only", "whole", "--json", "--quiet", *choice)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("detpress: latency_ms.torch.median was not measured: no row has it; ")
    assert Path("runs/two/study.json").is_file(), "what was computed is kept"


def test_results_of_another_study_are_not_overwritten(detpress: Command, study: str) -> None:
    assert detpress("compare", study, "--only", "whole", "--out", "here").code == 0
    before = Path("here/study.json").read_bytes()
    Path("three.yaml").write_text(STUDY.format(name="three"))
    said = detpress("compare", "three.yaml", "--only", "whole", "--out", "here")
    assert said.code == 2
    assert said.err == (
        "detpress: here/study.json: holds the results of 'two', not of 'three'; expected another --out\n"
    )
    assert Path("here/study.json").read_bytes() == before
    Path("here/study.json").write_text(json.dumps([]))
    assert "holds the results of None" in detpress("compare", study, "--out", "here").err


def test_a_study_stopped_at_once_leaves_the_results_of_an_earlier_one(
    detpress: Command, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert detpress("compare", study, "--only", "whole", "--out", "here").code == 0
    before = Path("here/study.json").read_bytes()

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("detpress.study.running.run_study", stopped)
    assert detpress("compare", study, "--only", "whole", "--out", "here").code == 2
    assert Path("here/study.json").read_bytes() == before


def test_a_study_that_is_stopped_on_the_way_leaves_the_fuller_results_of_itself(
    detpress: Command, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert detpress("compare", study, "--out", "here").code == 0
    before = Path("here/study.json").read_bytes()

    def stopped(*given: Any) -> Iterator[Outcome]:
        yield next(run_study(*given))
        raise KeyboardInterrupt

    monkeypatch.setattr("detpress.study.running.run_study", stopped)
    assert detpress("compare", study, "--out", "here").code == 2
    assert Path("here/study.json").read_bytes() == before
    Path(study).write_text(Path(study).read_text() + "# another\n")
    assert detpress("compare", study, "--out", "here").code == 2
    assert len(json.loads(Path("here/study.json").read_text())["jobs"]) == 1, "of a changed study"


def test_a_study_yaml_that_no_comparison_has_written_is_not_replaced(detpress: Command, study: str) -> None:
    Path("study.yaml").write_text("mine")
    said = detpress("compare", study, "--out", ".")
    assert (said.code, said.err) == (
        2, "detpress: study.yaml: is there already, without results; expected another --out\n",
    )  # fmt: skip
    assert Path("study.yaml").read_text() == "mine"
