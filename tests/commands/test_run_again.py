"""A run's folder that is used again, and stages that are found broken."""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Command

from detpress.run.chain import run_chain
from detpress.run.stage import Stage
from detpress.run.store import Store

MASKED = ("--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]", "--set", "measure.runtimes=[]")
OTHER = ("--set", "chain=[{nni.l2norm: {sparsity: 0.5}}]", "--set", "measure.runtimes=[]")


def test_a_run_folder_used_again_holds_the_stages_and_pictures_of_its_results(
    detpress: Command, workplace: Path
) -> None:
    assert detpress("run", "small.yaml", *MASKED, "--out", "out").code == 0
    out = workplace / "out"
    (out / "1-nni.l1norm" / "notes.txt").write_text("mine")
    (out / "2-mine").mkdir()
    (out / "pictures" / "mine.jpg").write_text("mine")
    before = {path.name for path in (out / "pictures").iterdir()}
    again = detpress("run", "small.yaml", *OTHER, "--set", "data.test=val", "--out", "out", "--json")
    assert again.code == 0, again.err
    stages = [f"{stage['index']}-{stage['plugin']}" for stage in again.json["stages"]]
    assert {path.name for path in out.iterdir() if path.is_dir()} == {*stages, "pictures", "1-nni.l1norm", "2-mine"}
    assert [path.name for path in (out / "1-nni.l1norm").iterdir()] == ["notes.txt"]
    pictures = {path.name for path in (out / "pictures").iterdir()}
    assert pictures & before == {"mine.jpg"}
    assert len(pictures) == 1 + 2
    lost = detpress("sensitivity", "out/1-nni.l1norm/bundle", "--data", "digits")
    assert (lost.code, lost.err.count("\n")) == (2, 1)
    assert "not a bundle" in lost.err


def test_the_recipe_in_a_runs_folder_says_what_was_run(detpress: Command, workplace: Path) -> None:
    settings = ("--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]", "--set", "measure.runtimes=[]", "--set", "seed=3")
    assert detpress("run", "small.yaml", *settings, "--out", "out").code == 0
    again = detpress("run", "out/recipe.yaml", "--out", "again", "--json")
    assert again.code == 0, again.err
    assert [stage["plugin"] for stage in again.json["stages"]] == ["model", "nni.l1norm"]
    assert (again.json["seed"], again.json["recipe"]["name"]) == (3, "small")
    assert all(stage["reused"] for stage in again.json["stages"])


def test_paths_that_start_at_the_recipe_are_found_from_its_copy_too(detpress: Command, workplace: Path) -> None:
    text = (workplace / "small.yaml").read_text()
    assert "root: digits" in text
    quick = f"{text}measure: {{runtimes: [], memory: false}}\n" if "measure:" not in text else text
    (workplace / "own.yaml").write_text(quick)
    assert detpress("run", "own.yaml", "--out", "out").code == 0
    again = detpress("run", "out/recipe.yaml", "--out", "again", "--json")
    assert again.code == 0, again.err
    assert all(stage["reused"] for stage in again.json["stages"])


def test_results_say_whether_the_run_came_to_its_end_and_if_not_why(detpress: Command, workplace: Path) -> None:
    assert detpress("run", "small.yaml", *MASKED, "--out", "whole", "--json").json["failed"] is None
    chain = "chain=[{nni.l1norm: {sparsity: 0.5}}, {nni.speedup: {}, timeout: 0.001}]"
    said = detpress("run", "small.yaml", "--set", chain, "--set", "measure.runtimes=[]", "--out", "ended")
    assert said.code == 1, said.err
    results = json.loads(Path("ended/results.json").read_text())
    assert [stage["plugin"] for stage in results["stages"]] == ["model", "nni.l1norm"]
    assert f"detpress: {results['failed']}" in said.err
    assert detpress("report", "ended").code == 0
    assert results["failed"] in html.unescape(Path("ended/report.html").read_text())


def test_a_changed_byte_in_a_stored_bundle_is_said_and_the_stage_made_again(
    detpress: Command, workplace: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert detpress("run", "small.yaml", *MASKED).code == 0
    store = Store(cache / "store")
    key = next(entry.key for entry in store.listing() if entry.plugin == "nni.l1norm")
    weights = store.stage(key) / "bundle" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = detpress("run", "small.yaml", *MASKED, "--json")
    assert again.code == 0, again.err
    assert [stage["reused"] for stage in again.json["stages"]] == [True, False]
    assert "weights.safetensors altered" in caplog.text
    assert "put aside" in caplog.text
    assert [stage["reused"] for stage in detpress("run", "small.yaml", *MASKED, "--json").json["stages"]] == [True] * 2


def test_a_stage_is_removed_by_the_beginning_of_its_key_and_a_fresh_run_makes_all_anew(
    detpress: Command, workplace: Path, cache: Path
) -> None:
    def reused(*options: str) -> list[bool]:
        return [stage["reused"] for stage in detpress("run", "small.yaml", *MASKED, *options, "--json").json["stages"]]

    assert reused() == [False, False]
    assert reused("--fresh") == [False, False]
    key = next(entry.key for entry in Store(cache / "store").listing() if entry.plugin == "nni.l1norm")
    assert detpress("store", "rm", key[:12], "--json").json == {"removed": key}
    assert reused() == [True, False]
    short = detpress("store", "rm", key[:3])
    assert (short.code, "at least 4 letters" in short.err) == (2, True)
    unknown = detpress("store", "rm", "nothing")
    assert (unknown.code, unknown.err.count("\n")) == (2, 1)
    assert "no stage whose key begins with 'nothing'" in unknown.err


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    detpress: Command, workplace: Path, cache: Path, command: str
) -> None:
    (workplace / "file").write_text("")
    said = detpress(command, "small.yaml", "--out", "file/out")
    assert said.code == 2
    assert "detpress: --out file/out: cannot be written (Not a directory); expected a folder\n" in said.err
    assert Store(cache / "store").listing() == []


def test_a_checkpoint_cut_short_is_put_aside_and_the_training_begins_anew(
    detpress: Command, workplace: Path, cache: Path
) -> None:
    trained = ("--set", "chain=[{train.scratch: {epochs: 2, batch_size: 4}}]", "--set", "measure.runtimes=[]")
    whole = detpress("run", "small.yaml", *trained, "--out", "whole", "--json").json["stages"][1]
    assert detpress("store", "rm", whole["key"]).code == 0
    scratch = Store(cache / "store").scratch(whole["key"]) / "fit-0"
    scratch.mkdir()
    (scratch / "last.ckpt").write_bytes(b"PK\x03\x04" + bytes(1000))
    again = detpress("run", "small.yaml", *trained, "--out", "again", "--json")
    assert again.code == 0, again.err
    sums = [(workplace / run / "1-train.scratch/bundle/SHA256SUMS").read_text() for run in ("whole", "again")]
    assert sums[0] == sums[1]
    assert "put aside as broken.ckpt" in (workplace / "again/1-train.scratch/stage.log").read_text()


def test_a_run_that_is_stopped_leaves_the_stages_of_itself_when_it_was_whole(
    detpress: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert detpress("run", "small.yaml", *MASKED, "--out", "out").code == 0
    before = (workplace / "out/results.json").read_bytes()

    def stopped(*given: Any, **named: Any) -> Iterator[Stage]:
        yield next(run_chain(*given, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr("detpress.run.chain.run_chain", stopped)
    assert detpress("run", "small.yaml", *MASKED, "--fresh", "--out", "out").code == 2
    assert (workplace / "out/results.json").read_bytes() == before
    assert (workplace / "out/1-nni.l1norm/bundle/model.json").is_file()
    assert detpress("run", "small.yaml", *OTHER, "--out", "out").code == 2
    found = json.loads((workplace / "out/results.json").read_text())
    assert (found["failed"], len(found["stages"])) == (None, 2), "its beginning is that of the whole one, too"


def test_a_recipe_yaml_that_no_run_has_written_is_not_replaced(detpress: Command, workplace: Path) -> None:
    mine = (workplace / "small.yaml").read_text() + "# mine\n"
    (workplace / "recipe.yaml").write_text(mine)
    said = detpress("run", "recipe.yaml", *MASKED, "--out", ".")
    assert (said.code, said.err.splitlines()[-1]) == (
        2, "detpress: recipe.yaml: is there already, and no run has written it; expected another --out",
    )  # fmt: skip
    assert (workplace / "recipe.yaml").read_text() == mine
