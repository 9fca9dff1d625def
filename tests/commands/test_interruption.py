"""A run that was killed, stopped or out of room goes on by the same command, and ends as if nothing had happened."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import psutil
import pytest
from command_line import Command
from killing import digests, run_killed
from processes import begin, is_gone
from processes import detpress as command

from detpress.run.store import Store

KILLS = (("nni.l1norm", "images scored"), ("nni.speedup", "finish"), ("train.finetune", "epoch 2"))


def test_a_run_killed_in_one_stage_after_another_ends_with_the_weights_of_one_undisturbed(
    detpress: Command, workplace: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = workplace / "small.yaml"
    recipe.write_text(recipe.read_text().replace("runtimes: [torch]", "runtimes: []"))
    for stage, at in KILLS:
        run_killed(stage, at)
    made = [entry.plugin for entry in Store(cache / "store").listing()]
    assert sorted(made) == ["model", "nni.l1norm", "nni.speedup", "train.scratch"]
    assert list((cache / "store/scratch").glob("*/fit-0/last.ckpt"))
    said = detpress("run", "small.yaml", "--json", "--out", "killed")
    assert said.code == 0, said.err
    assert [stage["reused"] for stage in said.json["stages"]] == [True, True, True, True, False, False]
    assert "going on from" in (workplace / "killed/4-train.finetune/stage.log").read_text()
    assert not list((cache / "store/scratch").iterdir())
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "another"))
    assert detpress("run", "small.yaml", "--out", "undisturbed").code == 0
    assert len(digests(workplace / "killed")) == 6
    assert digests(workplace / "killed") == digests(workplace / "undisturbed")


TRAINS = "store/scratch/*/fit-0/training.csv"
STOPPED = "detpress: stopped; what was finished is kept, the same command goes on from there\n"


def test_ctrl_c_in_training_is_one_line_and_keeps_what_was_finished(workplace: Path, cache: Path) -> None:
    run = begin(workplace / "printed", command, "run", "small.yaml", "--set", "chain[0].epochs=10000")
    run.wait_for(TRAINS, cache)
    run.send(signal.SIGINT)
    code, out, err = run.end()
    assert (code, out) == (2, "")
    assert err.endswith(STOPPED)
    assert "Traceback" not in err
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]
    kept = json.loads((workplace / "runs/small/results.json").read_text())["stages"]
    assert [stage["plugin"] for stage in kept] == ["model"]


@pytest.mark.skipif(os.name != "posix", reason="the largest file size can be limited on POSIX only")
def test_no_room_on_the_disk_is_one_line_and_keeps_what_was_finished(
    detpress: Command, workplace: Path, cache: Path
) -> None:
    """The dense model's weights take 1.0 MB, the masks a quarter more: a limit between lets the first stage through."""
    model = ("--set", "model={arch: yolov3, width: 0.0625, image_size: 64}", "--set", "measure.runtimes=[]")
    arguments = ("run", "small.yaml", "--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]", *model)
    code, _, err = begin(workplace / "printed", with_files_below, 1_150_000, *arguments).end()
    assert code == 2, err
    last = err.splitlines()[-1]
    assert last.startswith("detpress: no disk space left")
    assert "what was finished is kept: make room, or set DETPRESS_CACHE to a folder elsewhere" in last
    assert "Traceback" not in err
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]
    again = detpress(*arguments, "--json")
    assert [stage["reused"] for stage in again.json["stages"]] == [True, False]


def with_files_below(size: int, *arguments: str) -> None:
    """A command that can write no file of more bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    command(*arguments)


def test_sigterm_in_training_is_exit_code_143_and_one_line_and_the_same_command_goes_on(
    detpress: Command, workplace: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning answers SIGTERM by an exit without a code, which is 0."""
    chain = "chain=[{train.scratch: {epochs: 10, batch_size: 4}}]"
    arguments = ("run", "small.yaml", "--set", chain, "--set", "measure.runtimes=[]")
    run = begin(workplace / "printed", command, *arguments, "--out", "stopped")
    run.wait_for(TRAINS, cache)
    run.send(signal.SIGTERM)
    code, out, err = run.end()
    assert (code, out) == (143, ""), err
    assert err.endswith(STOPPED)
    assert "Traceback" not in err
    assert detpress(*arguments, "--out", "again").code == 0
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "another"))
    assert detpress(*arguments, "--out", "undisturbed").code == 0
    assert digests(workplace / "again") == digests(workplace / "undisturbed")


def test_sigterm_ends_a_comparison_and_its_worker(workplace: Path, cache: Path) -> None:
    arguments = ("compare", "small.yaml", "--set", "chain[0].epochs=10000", "--set", "measure.runtimes=[]")
    run = begin(workplace / "printed", command, *arguments)
    run.wait_for(TRAINS, cache)
    [worker] = psutil.Process(run.process.pid).children()
    run.send(signal.SIGTERM)
    code, _, err = run.end()
    assert code == 143, err
    assert err.endswith(STOPPED)
    assert "Traceback" not in err
    assert is_gone(worker.pid)


def test_a_worker_of_a_study_stopped_by_sigterm_says_so(workplace: Path, cache: Path) -> None:
    recipe = workplace / "small.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 2", "epochs: 10000"))
    run = begin(workplace / "printed", worker, "small.yaml")
    run.wait_for(TRAINS, cache)
    run.send(signal.SIGTERM)
    code, out, err = run.end()
    assert code == 143, err
    assert json.loads(out.splitlines()[-1]) == {"event": "failed", "reason": "its process was stopped by SIGTERM"}
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]


def worker(recipe: str) -> None:
    """That of a study; its standard input stays open."""
    from detpress.study.worker import main

    os.dup2(os.pipe()[0], 0)
    sys.argv = ["worker", recipe]
    main()


def test_a_plugin_that_exits_makes_no_stage_and_no_success(
    detpress: Command, workplace: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detpress.plugins.nni_prune.L1Norm.apply", lambda *_: sys.exit())
    said = detpress("run", "small.yaml", "--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]")
    assert said.code == 1
    assert "nni.l1norm failed: it asked the program to exit (None); see " in said.err
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]


def test_modules_of_the_working_folder_are_imported_by_no_child(detpress: Command, workplace: Path) -> None:
    for name in ("random", "resource", "copyreg"):
        (workplace / f"{name}.py").write_text(f"open({str(workplace / 'executed')!r}, 'w').close()\n")
    said = detpress("run", "small.yaml", "--set", "chain=[]")
    assert said.code == 0, said.err
    assert not (workplace / "executed").exists()
