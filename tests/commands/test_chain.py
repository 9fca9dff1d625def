"""A whole chain through the command line: measured, reused, rebuilt elsewhere without its engines, and stopped."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import Command, Said
from distribution import Install

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.encodings.bundle import save_bundle
from detpress.voc.digits import CLASSES

STAGES = {
    "model": "dense",
    "train.scratch": "dense",
    "nni.l1norm": "masked",
    "nni.speedup": "dense",
    "train.finetune": "dense",
    "inc.static_int8": "int8",
}


@pytest.fixture(scope="module")
def chain_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture
def cache(chain_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the whole file: what the first test computes, the others reuse."""
    monkeypatch.setenv("DETPRESS_CACHE", str(chain_cache))
    return chain_cache


@pytest.fixture
def ran(detpress: Command, workplace: Path, cache: Path) -> Said:
    return detpress("run", "small.yaml", "--json")


def test_results_have_the_shape_that_is_documented(ran: Said, workplace: Path) -> None:
    assert ran.code == 0, ran.err
    found = ran.json
    assert found == json.loads((workplace / "runs/small/results.json").read_text())
    assert set(found) == {"recipe", "seed", "protocol", "versions", "failed", "stages"}
    assert (found["seed"], found["protocol"]) == (0, "voc07@0.5+1px/score>0.005/nms0.45/max100")
    assert {"detpress", "python", "torch", "nni", "neural-compressor"} <= set(found["versions"])
    assert [(stage["plugin"], stage["form"]) for stage in found["stages"]] == list(STAGES.items())
    for index, stage in enumerate(found["stages"]):
        keys = (
            "index",
            "plugin",
            "distribution",
            "environment",
            "form",
            "key",
            "bundle",
            "reused",
            "seconds",
            "notes",
            "validation",
            "metrics",
            "remarks",
        )
        assert set(stage) == set(keys)
        assert stage["index"] == index
        assert len(stage["key"]) == 64
        assert (Path(stage["bundle"]) / "model.json").is_file()
        metrics = stage["metrics"]
        assert set(metrics["ap"]) <= set(CLASSES)
        assert metrics["map"] == pytest.approx(sum(metrics["ap"].values()) / len(metrics["ap"]))
        files = Path(stage["bundle"]).iterdir()
        assert metrics["storage_bytes"]["on_disk"] == sum(file.stat().st_size for file in files)
        assert set(metrics["latency_ms"]) == {"torch"}
        assert {"median", "p95", "threads", "batch"} <= set(metrics["latency_ms"]["torch"])
        assert metrics["peak_memory_bytes"] is None, "not asked for"
    dense, _, masked, small, _, int8 = (stage["metrics"] for stage in found["stages"])
    assert masked["parameters"] == dense["parameters"]
    assert masked["nonzero_parameters"] < 0.6 * dense["parameters"]
    assert small["parameters"] == small["nonzero_parameters"] < 0.4 * dense["parameters"]
    assert small["macs"] < 0.4 * dense["macs"]
    of_torch = ["latency_ms.torch", "map", "ap", "map_by_runtime.torch"]
    assert (dense["simulated"], int8["simulated"]) == ([], of_torch)
    assert int8["storage_bytes"]["on_disk"] < small["storage_bytes"]["on_disk"] / 2


def test_a_second_run_reuses_every_stage_and_measures_none_again(ran: Said, detpress: Command, workplace: Path) -> None:
    second = detpress("run", "small.yaml", "--json", "--out", "again")
    assert all(stage["reused"] for stage in second.json["stages"])
    for one, other in zip(ran.json["stages"], second.json["stages"], strict=True):
        assert (one["key"], one["metrics"]) == (other["key"], other["metrics"])


def test_another_seed_another_option_and_another_image_set_compute_what_depends_on_them_only(
    ran: Said, detpress: Command
) -> None:
    def reused(*arguments: str) -> list[bool]:
        said = detpress("run", "small.yaml", "--json", *arguments)
        assert said.code == 0, said.err
        return [stage["reused"] for stage in said.json["stages"]]

    trained = "{train.scratch: {epochs: 2, batch_size: 4}}"
    assert reused("--set", f"chain=[{trained}]", "--set", "data.test=val") == [True, True]
    assert reused("--set", f"chain=[{trained}, {{nni.l1norm: {{sparsity: 0.25}}}}]") == [True, True, False]
    assert reused("--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]", "--seed", "1") == [False, False]


# `detpress detect` with each bundle, where neither engine can be imported.
WITHOUT_ENGINES = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nni", "neural_compressor"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from detpress.cli import main
_, image, *folders = sys.argv
for folder in folders:
    sys.argv = ["detpress", "detect", f"{folder}/bundle", image, "--score", "0", "--out", f"{folder}/found"]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


def test_a_bundle_of_each_stage_copied_elsewhere_gives_the_same_boxes_where_no_engine_can_be_imported(
    ran: Said, detpress: Command, workplace: Path, tmp_path: Path
) -> None:
    image = workplace / "digits/JPEGImages/000011.jpg"
    elsewhere = tmp_path / "elsewhere"
    expected = {}
    for stage in ran.json["stages"]:
        folder = elsewhere / stage["plugin"]
        shutil.copytree(stage["bundle"], folder / "bundle")
        said = detpress("detect", stage["bundle"], image, "--score", "0", "--out", f"found-{stage['index']}", "--json")
        expected[folder] = said.json
        assert said.json[0]["objects"]
    command = [sys.executable, "-c", WITHOUT_ENGINES, str(image), *map(str, expected)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder, objects in expected.items():
        assert json.loads((folder / "found/boxes.json").read_text()) == objects


STRANGER = """
from detpress.contract.plugin import Plugin
from detpress.options import Options
from detpress.detector.form import Form

class Nothing(Plugin):
    \"\"\"Gives back what it was given.\"\"\"

    class Config(Options):
        \"\"\"No options.\"\"\"

    accepts = frozenset({Form.DENSE})
    returns = None

    def apply(self, model, config, bench):
        return model
"""


@pytest.fixture
def stranger(install: Install) -> None:
    """Another distribution, whose plugin `stranger.nothing` changes nothing."""
    install("stranger", "1.0", {"stranger.py": STRANGER}, "[detpress.plugins]\nstranger.nothing = stranger:Nothing\n")


def test_a_stage_that_changed_nothing_fails_and_says_so(
    stranger: None, ran: Said, detpress: Command, workplace: Path
) -> None:
    chain = "chain=[{train.scratch: {epochs: 2, batch_size: 4}}, stranger.nothing]"
    said = detpress("run", "small.yaml", "--set", chain)
    assert said.code == 1
    message = "stranger.nothing (stranger 1.0): changed nothing: the model that came out is the one that went in"
    assert said.err.endswith(f"detpress: {message}\n")
    kept = json.loads((workplace / "runs/small/results.json").read_text())["stages"]
    assert [stage["plugin"] for stage in kept] == ["model", "train.scratch"]


def test_a_pruner_that_masks_nothing_fails_and_says_so(detpress: Command, workplace: Path) -> None:
    said = detpress("run", "small.yaml", "--set", "chain=[{nni.l1norm: {sparsity: 0.001}}]")
    assert said.code == 1
    assert "detpress: nni.l1norm: masked nothing: " in said.err


@pytest.fixture
def finder(workplace: Path, digits: Path) -> Path:
    """`finder`, a detector that finds one and the same box in every image, and `one-box`, a data set that holds it.

    Its heads have next to nothing but biases: in the coarsest map, the box of the largest anchor, moved to the end of
    its cell.
    """
    shutil.copytree(digits, workplace / "one-box", ignore=shutil.ignore_patterns("*.xml"))
    for image in (path.stem for path in (workplace / "one-box/JPEGImages").iterdir()):
        (workplace / f"one-box/Annotations/{image}.xml").write_text(
            "<annotation><size><width>160</width><height>160</height></size><object><name>one</name><bndbox>"
            "<xmin>41</xmin><ymin>41</ymin><xmax>120</xmax><ymax>120</ymax></bndbox></object></annotation>"
        )
    model = new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0)
    heads = [model.network.layers[layer].convolution for layer in model.architecture.heads]
    width, height = model.architecture.yolo_layers[0].anchors[2]
    with torch.no_grad():
        for head in heads:
            head.weight.fill_(1e-6)  # not zero: nni.speedup would find the head empty
            head.bias.fill_(-20.0)
        cell = heads[0].bias.view(3, -1)[2]
        cell[:4] = torch.tensor([20.0, 20.0, math.log(32 / width), math.log(32 / height)])
        cell[4] = cell[5 + CLASSES.index("one")] = 20.0
    save_bundle(model, workplace / "finder")
    return workplace / "finder"


def test_a_stage_that_loses_too_much_stops_the_chain_and_the_stages_stay(
    finder: Path, detpress: Command, workplace: Path
) -> None:
    (workplace / "loss.yaml").write_text(
        "name: loss\ndata: {root: one-box}\nmodel: {weights: finder}\n"
        "chain: [{nni.l1norm: {sparsity: 0.5}}, nni.speedup, {train.scratch: {epochs: 1, batch_size: 4}}]\n"
        "measure: {runtimes: [], memory: false, max_map_loss: 0.1}\n"
    )
    said = detpress("run", "loss.yaml")
    assert said.code == 1
    kept = json.loads((workplace / "runs/loss/results.json").read_text())["stages"]
    maps = [stage["metrics"]["map"] for stage in kept]
    assert [stage["plugin"] for stage in kept] == ["model", "nni.l1norm", "nni.speedup", "train.scratch"]
    assert maps[0] == maps[1] == maps[2] > 0.2
    assert said.err.endswith(
        f"detpress: train.scratch: mAP fell from {maps[2]:.4f} to {maps[3]:.4f}, by {1 - maps[3] / maps[2]:.0%}; "
        "measure.max_map_loss stops the chain at 10%\n"
    )
    assert detpress("run", "loss.yaml", "--set", "measure.max_map_loss=null", "--json").code == 0
