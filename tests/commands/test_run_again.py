"""A run's folder that is used again, and stages that are found broken."""

from pathlib import Path

import pytest
from command_line import Command

from detpress.store import Store

MASKED = ("--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]", "--set", "measure.runtimes=[]")
NARROW = ("--set", "chain=[{inc.fp16: {}}]", "--set", "measure.runtimes=[]")


def test_a_run_folder_used_again_holds_the_stages_and_pictures_of_its_results(
    detpress: Command, workplace: Path
) -> None:
    assert detpress("run", "small.yaml", *MASKED, "--out", "out").code == 0
    out = workplace / "out"
    (out / "1-nni.l1norm" / "notes.txt").write_text("mine")
    (out / "2-mine").mkdir()
    (out / "pictures" / "mine.jpg").write_text("mine")
    before = {path.name for path in (out / "pictures").iterdir()}
    again = detpress("run", "small.yaml", *NARROW, "--set", "data.test=val", "--out", "out", "--json")
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
