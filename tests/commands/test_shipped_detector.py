"""The detector of blood cells that comes with the package is the one that the study made."""

import json
from pathlib import Path

import pytest
from command_line import Command

from detpress.builtin import find_bundle
from detpress.encodings.bundle import bundle_bytes

BCCD = Path(__file__).parents[3] / "shared/data/BCCD"
KEPT = Path(__file__).parents[2] / "docs/study/claims-256/study.json"


@pytest.fixture(scope="module")
def hundredth() -> dict[str, float]:
    """Mean figures of the study's row."""
    [row] = [row for row in json.loads(KEPT.read_text())["rows"] if row["name"] == "hundredth"]
    return {name: found["mean"] for name, found in row["figures"].items()}


def test_it_has_the_size_that_the_study_measured(detpress: Command, hundredth: dict[str, float]) -> None:
    model = detpress("model", "builtin:cells-98", "--json").json
    assert (model["parameters"], model["macs"]) == (hundredth["parameters"], hundredth["macs"])
    assert model["parameters"] <= 0.012 * 3_864_064
    assert model["macs"] <= 0.0347 * 785_514_496
    assert bundle_bytes(find_bundle("builtin:cells-98")) == hundredth["storage_bytes.on_disk"]


@pytest.mark.skipif(not BCCD.is_dir(), reason="BCCD is not at ../shared/data/BCCD")
def test_it_finds_what_the_study_says(detpress: Command, hundredth: dict[str, float], workplace: Path) -> None:
    """On the photographs of the first fold of three, which it never saw; another processor may round otherwise."""
    (workplace / "fold.yaml").write_text(
        f"name: fold\ndata: {{root: {BCCD}, split: {{folds: 3, fold: 0, val: 0.1}}}}\n"
        "model: {weights: 'builtin:cells-98'}\nchain: []\n"
        "measure: {protocol: voc07, runtimes: [torch], memory: false}\n"
    )
    said = detpress("run", "fold.yaml", "--json")
    assert said.code == 0, said.err
    assert said.json["stages"][0]["metrics"]["map"] == pytest.approx(hundredth["map"], abs=0.002)
