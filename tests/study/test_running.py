"""Every recipe runs in a process of its own: a failure stops no other, nothing is done twice."""

import json
import signal
from pathlib import Path

import psutil
import pytest
from processes import begin, detpress, is_gone
from small_study import Finished, run

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.encodings.bundle import save_bundle
from detpress.errors import InputError
from detpress.run.initial_model import initial_model, open_recipe_data
from detpress.run.keys import chain_keys
from detpress.run.store import Store
from detpress.study.definition import open_studies, read_study
from detpress.study.running import Plan, open_study_data, plan_study
from detpress.voc.digits import write_digits


def test_shared_stages_are_counted_and_made_once(killed: Finished) -> None:
    assert killed.told.events[0] == ("planned", 5, 0), "model, l1norm, speedup, static_int8, finetune"
    assert [event[:2] for event in killed.told.events if event[0] == "end"] == [
        *[("end", False)] * 3,  # pruned: model, l1norm, speedup
        ("end", True),  # broken
        ("end", True),  # trained
    ]


def test_the_time_left_is_told_after_the_first_stage(killed: Finished) -> None:
    left = [event[2] for event in killed.told.events if event[0] == "end"]
    assert left[0] > 0
    assert all(seconds is not None for seconds in left)


def test_a_recipe_that_fails_or_is_killed_is_recorded_with_its_log(killed: Finished) -> None:
    failures = {name: outcome.failure for name, outcome in killed.outcomes.items()}
    assert failures["whole"] is None
    assert failures["pruned"] is None
    assert failures["broken"].startswith("inc.static_int8: 1000 calibration images asked for, but ")
    assert failures["trained"].startswith("train.finetune: its process was killed by SIGKILL")
    log = killed.outcomes["broken"].log.read_text()
    assert "The log of inc.static_int8:" in log
    assert "1000 calibration images asked for" in log
    status = {job["row"]: job["status"] for job in killed.results["jobs"]}
    assert status == {"whole": "done", "pruned": "done", "broken": "failed", "trained": "failed"}


def test_the_same_study_again_makes_only_what_is_missing(killed: Finished, finished: Finished) -> None:
    assert finished.told.events[0] == ("planned", 5, 3)
    for name in ("whole", "pruned"):
        assert all(stage.reused for stage in finished.outcomes[name].stages)
    assert finished.outcomes["trained"].failure is None
    begun = [event[3] for event in finished.told.events if event[0] == "begin"]
    assert begun == ["model", "inc.static_int8", "model", "train.finetune"]
    again, before = (
        # which fronts a row is on, depends on the other rows' latencies
        [row | {"fronts": None} for row in one.results["rows"] if row["name"] == "pruned"]
        for one in (finished, killed)
    )
    assert again == before


def test_what_a_study_leaves(finished: Finished) -> None:
    results = json.loads((finished.folder / "study.json").read_text())
    assert results == finished.results
    for job in results["jobs"]:
        for stage in job["stages"]:
            assert (finished.folder / stage["bundle"] / "model.json").is_file()
    trained = finished.folder / next(job for job in results["jobs"] if job["row"] == "trained")["stages"][1]["bundle"]
    table = (trained.parent / "training/0.csv").read_text().splitlines()
    assert table[0] == "epoch,box,objectness,classes"
    assert len(table) == 3


def test_a_recipe_of_a_study_runs_alone_to_the_same_stages(finished: Finished, study_file: Path) -> None:
    job = finished.outcomes["pruned"].job
    alone = open_studies([str(finished.folder / f"recipes/{job.name}.yaml")])
    assert alone.jobs[0].recipe.as_dict() | {"name": "pruned"} == job.recipe.as_dict()


def test_time_left_is_the_mean_of_the_plugins_own_stages_or_else_of_all() -> None:
    plan = Plan([], {"a": "slow", "b": "slow", "c": "quick", "d": "new", "e": "given up"}, set(), {"e"})
    assert plan.seconds_left() is None
    plan.made("a", 10.0)
    plan.made("c", 2.0)
    assert plan.seconds_left() == 10.0 + 6.0


PLANNED = """\
name: planned
shared:
  data: {root: digits}
recipes:
  - {name: known, chain: [], model: {weights: "builtin:digits"}}
  - {name: new, chain: [], model: &new {arch: yolov3, width: 0.0625, image_size: 64, anchors: kmeans}}
  - {name: of-val, chain: [], data: {root: digits, train: val}, model: *new}
"""


def test_planned_keys_are_those_that_a_recipe_by_itself_has(tmp_path: Path) -> None:
    """Whether classes come of the weights or of the annotations, and by whichever images anchors are found."""
    write_digits(tmp_path / "digits", {"train": 24, "val": 24, "test": 4})
    (tmp_path / "planned.yaml").write_text(PLANNED)
    study = read_study(tmp_path / "planned.yaml")
    plan = plan_study(study, Store(tmp_path / "store"), open_study_data(study))
    for planned in plan.jobs:
        recipe = planned.job.recipe
        devkit = open_recipe_data(recipe)
        assert list(planned.keys) == chain_keys(recipe, devkit, initial_model(recipe, devkit))
    assert len({planned.keys[0] for planned in plan.jobs}) == 3


def test_detectors_of_other_classes_are_not_compared(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", {"train": 2, "test": 2})
    save_bundle(new_model(build_architecture("yolov3-tiny", ["0", "ten"], 64, 0.0625), seed=0), tmp_path / "two")
    text = PLANNED.replace(
        "{name: new", f"{{name: two, chain: [], model: {{weights: {tmp_path / 'two'}}}}}\n  - {{name: new"
    )
    (tmp_path / "planned.yaml").write_text(text)
    study = read_study(tmp_path / "planned.yaml")
    with pytest.raises(InputError, match=r"two cannot be compared with known: its classes are 0, ten, not eight, five"):
        plan_study(study, Store(tmp_path / "store"), open_study_data(study))


def test_the_ap_of_a_class_that_there_is_not_is_refused_before_the_work(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", {"train": 2, "test": 2})
    (tmp_path / "planned.yaml").write_text(PLANNED.replace("shared:", "metrics: [map, ap.Seven]\nshared:"))
    study = read_study(tmp_path / "planned.yaml")
    with pytest.raises(InputError, match=r"metrics: ap\.Seven: no class 'Seven'; did you mean 'seven'\?"):
        plan_study(study, Store(tmp_path / "store"), open_study_data(study))


def test_a_limit_that_one_recipe_has_stops_no_other_with_the_same_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a share of mAP nor seconds, which are in no key."""
    write_digits(tmp_path / "digits", {"train": 4, "test": 8})
    (tmp_path / "limits.yaml").write_text(
        "name: limits\nshared:\n  data: {root: digits}\n  model: {weights: 'builtin:digits'}\nrecipes:\n"
        "  - {name: strict, chain: &pruned [nni.l1norm: {sparsity: 0.4}, nni.speedup],\n"
        "     measure: {runtimes: [], memory: false, max_map_loss: 0.001}}\n"
        "  - {name: hasty, chain: [nni.l1norm: {sparsity: 0.4}, {nni.speedup: {}, timeout: 0.001}],\n"
        "     measure: &quick {runtimes: [], memory: false}}\n"
        "  - {name: free, chain: *pruned, measure: *quick}\n"
    )
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))
    outcomes = run(tmp_path / "limits.yaml", tmp_path / "cache", tmp_path / "out").outcomes
    assert "measure.max_map_loss stops the chain" in str(outcomes["strict"].failure)
    assert "0.001" in str(outcomes["hasty"].failure)
    assert outcomes["free"].failure is None


def test_a_runtime_that_one_recipe_cannot_be_measured_in_stops_no_other_with_the_same_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "digits", {"train": 4, "test": 8})
    (tmp_path / "runtimes.yaml").write_text(
        "name: runtimes\nshared:\n  data: {root: digits}\n  model: {weights: 'builtin:digits'}\nrecipes:\n"
        "  - {name: compiled, chain: &pruned [nni.l1norm: {sparsity: 0.4}],"
        " measure: {runtimes: [torch-compile], memory: false}}\n"
        "  - {name: scored, chain: *pruned, measure: {runtimes: [], memory: false}}\n"
    )
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    outcomes = run(tmp_path / "runtimes.yaml", tmp_path / "cache", tmp_path / "out").outcomes
    assert "torch.compile failed" in str(outcomes["compiled"].failure)
    assert outcomes["scored"].failure is None


INTERRUPTED = """\
name: interrupted
shared:
  data: {{root: {data}}}
  model: {{weights: "builtin:digits"}}
  measure: {{runtimes: [], memory: false}}
recipes:
  - {{name: pruned, chain: [nni.l1norm: {{sparsity: 0.4}}, nni.speedup]}}
  - {{name: whole, chain: []}}
  - name: strict
    chain: [nni.l1norm: {{sparsity: 0.4}}, nni.speedup]
    measure: {{runtimes: [], memory: false, max_map_loss: 0.001}}
"""


def test_no_process_outlives_a_study_that_is_killed_and_the_same_command_finishes_it(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "interrupted.yaml"
    path.write_text(INTERRUPTED.format(data=study_file.parent / "digits"))
    command = ("compare", str(path), "--out", str(tmp_path / "out"))
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))
    stages = tmp_path / "cache/store/stages"
    study = begin(tmp_path / "killed", detpress, *command)
    study.wait_for("*/*/measurements/*", stages)
    workers = psutil.Process(study.process.pid).children(recursive=True)
    assert workers
    study.send(signal.SIGKILL)
    study.end()
    assert all(is_gone(worker.pid) for worker in workers)
    made = {path: path.stat().st_mtime_ns for path in stages.glob("*/*/bundle/weights.safetensors")}
    choice = ["--where", "map >= 0 and macs > 0", "--best", "parameters", "--quiet", "--json"]
    code, out, err = begin(tmp_path / "again", detpress, *command, *choice).end()
    assert (code, err) == (1, ""), "the recipe `strict` fails"
    results = json.loads(out)
    reasons = {job["row"]: job["reason"] for job in results["jobs"]}
    assert reasons["whole"] is None
    assert reasons["pruned"] is None
    assert "measure.max_map_loss stops the chain at 0%" in reasons["strict"]
    assert results["fits"] == ["pruned", "whole"]
    assert results["best"] == "pruned"
    assert made.items() <= {path: path.stat().st_mtime_ns for path in stages.glob("*/*/bundle/*")}.items()
    swapped = ["--baseline", "whole", "--quiet", "--json"]
    beside = json.loads(begin(tmp_path / "beside", detpress, *command, *swapped).end()[1])
    forth = next(row["difference"] for row in results["rows"] if row["name"] == "whole")
    back = next(row["difference"] for row in beside["rows"] if row["name"] == "pruned")
    assert (results["baseline"], beside["baseline"]) == ("pruned", "whole")
    assert [back[name] for name in ("mean", "low", "high")] == pytest.approx(
        [-forth[name] for name in ("mean", "high", "low")], abs=1e-9
    )
