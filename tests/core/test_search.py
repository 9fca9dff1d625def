"""A search: what its section may say, how trials compare, and that nothing is lost or chosen by the test images."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import begin, detpress

from detpress.errors import InputError, StageError
from detpress.recipe.file import Recipe, end_recipes, read_recipe, trial_recipe
from detpress.recipe.search import read_condition
from detpress.recipe.sections import Running
from detpress.run.search import SearchResult, Trial, run_search, score, winner_recipe
from detpress.run.store import Store
from detpress.voc.devkit import open_devkit
from detpress.voc.digits import write_digits

GOOD = """\
name: small
data: {root: digits}
model: {arch: yolov3-tiny, width: 0.0625, image_size: 64}
chain:
  - nni.l1norm: {sparsity: 0.5}
search:
  space:
    chain[0].sparsity: {uniform: [0.01, 0.9]}
    chain[0].round_to: {choice: [1, 2]}
  tuner: nni.random
  trials: 5
  maximize: map
  subject_to: {nonzero_parameters: "<= 0.5x"}
measure: {runtimes: [torch], memory: false}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    write_digits(folder / "digits", {"train": 2, "val": 3, "test": 2})
    return folder


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


class Silent:
    """A listener that keeps what was begun."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, index: int, total: int, name: str) -> None:
        self.said.append(name)

    def waiting(self) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None:
        self.said.append(what)

    def end(self, stage: Any) -> None: ...


def search(recipe: Recipe, store: Path, out: Path) -> SearchResult:
    devkit = open_devkit(Path(recipe.data.root))
    *_, last = run_search(recipe, devkit, Store(store), Silent(), out)
    return last


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{uniform: [0.01", "{unifrom: [0.01", "8: space.chain[0].sparsity: unknown distribution 'unifrom'; did you "),
        ("[0.01, 0.9]", "[0.9, 0.01]", "8: space.chain[0].sparsity: uniform: expected low < high, got [0.9, 0.01]"),
        ("[0.01, 0.9]", "[0.9]", "8: space.chain[0].sparsity: uniform: expected [low, high], 2 numbers, got [0.9]"),
        ("0.9]", "1.5]", "8: space.chain[0].sparsity: chain[0].nni.l1norm.sparsity: expected less than 1, got 1.5"),
        ("[1, 2]", "[1, 0]", "9: space.chain[0].round_to: chain[0].nni.l1norm.round_to: expected greater than "),
        ("[1, 2]", "[1, x]", "9: space.chain[0].round_to: chain[0].nni.l1norm.round_to: expected a valid integer"),
        ("[0].round_to", "[0].round", "9: space.chain[0].round: chain[0].nni.l1norm.round: unknown key; did you "),
        ("[0].round_to", "[1].round_to", "9: space.chain[1].round_to: nothing called '1' in chain"),
        ("chain[0].round_to", "model.width", "9: space.model.width: expected an option of a step, such as "),
        ("nni.random", "nni.randon", "10: tuner: unknown tuner 'nni.randon'; did you mean 'nni.random'?"),
        ("nni.random", "{nni.tpe: {startup: 0}}", "10: tuner.nni.tpe.startup: expected greater than or equal to 1"),
        ("trials: 5", "trials: 0", "11: trials: expected greater than or equal to 1, got 0"),
        ("maximize: map", "maximize: mpa", "12: maximize: no figure 'mpa'; did you mean 'map'?"),
        ("nonzero_parameters: ", "latency_ms.openvino.p95: ", "13: subject_to.latency_ms.openvino.p95: no latency of "),
        ("maximize: map", "maximize: map_by_runtime.onnx", "12: maximize: no mAP of 'onnx' is measured; "),
        ("<= 0.5x", "0.5x", "13: subject_to.nonzero_parameters: expected a limit such as "),
        ("trials: 5", "trials: 5\n  stop_early: nni.median", "12: stop_early: unknown assessor 'nni.median'; did you "),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_line_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path, (old, new))
    with pytest.raises(InputError) as error:
        read_recipe(path)
    line, what = message.split(": ", 1)
    assert str(error.value).startswith(f"{path}:{line}: search.{what}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{uniform: [0.01, 0.9]}", "y" * 5000),
        ("{uniform: [0.01, 0.9]}", f"{{{'y' * 5000}: 1}}"),
        ("[0.01, 0.9]", str([1] * 5000)),
        ("<= 0.5x", "y" * 5000),
        ("maximize: map", f"maximize: latency_ms.{'y' * 5000}.median"),
    ],
)
def test_a_long_value_is_shortened_in_the_message_about_it(tmp_path: Path, old: str, new: str) -> None:
    path = written(tmp_path, (old, new))
    with pytest.raises(InputError) as error:
        read_recipe(path)
    assert len(str(error.value)) < len(str(path)) + 300


def test_a_search_has_one_objective(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected either `maximize` or `minimize`"):
        read_recipe(written(tmp_path, ("maximize: map", "maximize: map\n  minimize: macs")))


def test_a_recipe_is_checked_with_both_ends_of_what_is_searched(tmp_path: Path) -> None:
    first, last = end_recipes(read_recipe(written(tmp_path)))
    assert [(r.chain[0].config.sparsity, r.chain[0].config.round_to) for r in (first, last)] == [(0.01, 1), (0.9, 2)]
    assert first.search is None


def test_whole_numbers_stay_whole_and_others_do_not_pass_for_them(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, ("{choice: [1, 2]}", "{quniform: [1, 9, 2]}")))
    with pytest.raises(InputError, match=r"round_to: expected a valid integer, got 1\.0"):
        read_recipe(written(tmp_path, ("{choice: [1, 2]}", "{uniform: [1, 9]}")))


@pytest.mark.parametrize(
    ("limit", "value", "violation"),
    [("<= 5", 5.0, 0.0), ("< 5", 5.0, 1e-9), ("<= 5", 6.0, 0.2), (">= 0.5x", 40.0, 0.2), ("<=.3x", 45.0, 0.5)],
)
def test_a_limit_is_missed_by_a_share_of_it(limit: str, value: float, violation: float) -> None:
    assert read_condition("macs", limit).violation(value, reference=100.0) == pytest.approx(violation)


def test_feasible_trials_come_first_then_those_that_miss_least_then_the_failed(tmp_path: Path) -> None:
    wanted = read_recipe(written(tmp_path)).search
    assert wanted is not None

    def trial(number: int, mean: float, violation: float, status: Any = "done") -> Trial:
        return Trial(number, "", {}, status, {"map": mean}, violation)

    order = [trial(0, 0.9, 0), trial(1, 0.2, 0), trial(2, 0.99, 0.1), trial(3, 0.99, 2.0), trial(4, 0, 0, "failed")]
    scores = [score(each, wanted, {"map": 0.5}) for each in order]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5
    assert all(-1 <= each <= 1 for each in scores)


@pytest.mark.parametrize("reference", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("sense", ["maximize", "minimize"])
def test_an_objective_may_be_below_0_which_a_plugins_own_figure_can_be(
    tmp_path: Path, sense: str, reference: float
) -> None:
    wanted = read_recipe(written(tmp_path, ("maximize: map", f"{sense}: plugin.gain"))).search
    assert wanted is not None
    values = [-2.0, -1.0, -0.5, 0.0, 0.5, 3.0]
    found = [Trial(0, "", {}, "done", {"plugin.gain": value}, 0.0) for value in values]
    scores = [score(trial, wanted, {"plugin.gain": reference}) for trial in found]
    assert scores == sorted(scores, reverse=sense == "minimize")
    assert len(set(scores)) == len(values)
    assert all(0 < each <= 1 for each in scores)


def test_a_runtimes_map_is_measured_where_it_is_the_objective(root: Path, tmp_path: Path) -> None:
    recipe = read_recipe(
        written(
            root,
            ("maximize: map", "maximize: map_by_runtime.onnxruntime"),
            ("trials: 5", "trials: 1"),
            ('  subject_to: {nonzero_parameters: "<= 0.5x"}\n', ""),
            ("nni.l1norm: {sparsity: 0.5}", "inc.static_int8: {calibration_images: 2}"),
            ("    chain[0].sparsity: {uniform: [0.01, 0.9]}\n", ""),
            ("chain[0].round_to: {choice: [1, 2]}", "chain[0].per_channel: {choice: [true]}"),
        ),
        ["measure.runtimes=[openvino, onnxruntime]"],
    )
    [trial] = search(recipe, tmp_path / "store", tmp_path / "run").trials
    assert trial.status == "done", trial.reason
    assert trial.metrics.keys() == {"map_by_runtime.onnxruntime"}


def test_trials_are_scored_on_the_validation_images_and_the_winner_is_a_plain_recipe(
    root: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(written(root))
    result = search(recipe, tmp_path / "store", tmp_path / "run")
    assert len(result.trials) == 5
    winner = result.winner
    assert winner is not None
    assert winner.metrics["nonzero_parameters"] <= 0.5 * result.reference["nonzero_parameters"]
    assert not all(trial.feasible for trial in result.trials)
    scored = {path.name.split("_")[2] for path in tmp_path.glob("store/stages/*/*/measurements/*/results/*.txt")}
    assert scored == {"val"}
    saved = json.loads((tmp_path / "run/trials.json").read_text())
    assert (saved["scored_on"], saved["winner"]) == ("val", winner.number)
    (tmp_path / "winner.yaml").write_text(winner_recipe(result))
    again = read_recipe(tmp_path / "winner.yaml")
    assert again.search is None
    assert again.as_dict() == trial_recipe(recipe, winner.values).as_dict() | {"name": "small-winner"}


def test_a_trial_that_fails_is_recorded_and_not_tried_again(root: Path, tmp_path: Path) -> None:
    """At a sparsity of 0.01 no layer of this small network has a filter to spare."""
    path = written(root, ("{uniform: [0.01, 0.9]}", "{choice: [0.01, 0.6]}"), ("nni.random", "nni.grid"))
    result = search(read_recipe(path), tmp_path / "store", tmp_path / "run")
    assert [(trial.values["chain[0].sparsity"], trial.status) for trial in result.trials] == [
        (0.01, "failed"), (0.01, "failed"), (0.6, "done"), (0.6, "done"),
    ]  # fmt: skip
    assert "masked nothing" in (result.trials[0].reason or "")
    made = sorted((tmp_path / "store/scratch").iterdir())
    before = [folder.stat().st_mtime_ns for folder in made]
    assert search(read_recipe(path), tmp_path / "store", tmp_path / "run").trials == result.trials
    assert [folder.stat().st_mtime_ns for folder in made] == before

    def known() -> dict[str, str]:
        return json.loads((tmp_path / "run/trials.json").read_text())["failures"]

    recipe, failures = read_recipe(path), known()
    next(run_search(recipe, open_devkit(Path(recipe.data.root)), Store(tmp_path / "store"), Silent(), tmp_path / "run"))
    assert known() == failures, "also where it was stopped again"
    slower = replace(recipe, chain=tuple(replace(step, running=Running(timeout=60.0)) for step in recipe.chain))
    search(slower, tmp_path / "store", tmp_path / "run")
    assert [folder.stat().st_mtime_ns for folder in made] != before, "with more time it is tried again"


def test_a_tuner_that_raises_is_one_line_and_its_numbers_may_be_numpys(root: Path, tmp_path: Path) -> None:
    class Mine:
        def start(self, *args: object) -> "Mine":
            return self

        def ask(self) -> dict[str, Any]:
            return {"chain[0].sparsity": np.float64(0.5), "chain[0].round_to": np.int64(1)}

        def tell(self, values: dict[str, Any], score: float) -> None:
            assert all(type(value) in (int, float) for value in values.values())
            raise KeyError("no such trial")

    recipe = read_recipe(written(root))
    assert recipe.search is not None
    recipe = replace(recipe, search=replace(recipe.search, tuner=Mine(), tuner_name="mine.tuner"))
    with pytest.raises(StageError, match=r"^mine\.tuner failed: KeyError: 'no such trial'$"):
        search(recipe, tmp_path / "store", tmp_path / "run")


def test_a_search_without_a_feasible_trial_ends_with_what_was_missed(root: Path, tmp_path: Path) -> None:
    path = written(root, ("<= 0.5x", "<= 1"), ("trials: 5", "trials: 2"))
    result = search(read_recipe(path), tmp_path / "store", tmp_path / "run")
    with pytest.raises(StageError, match="none of 2 trials came to its end within the limits: nonzero_parameters <= 1"):
        winner_recipe(result)


def test_the_median_rule_ends_trials_after_a_stage(root: Path, tmp_path: Path) -> None:
    """The objective is the number of parameters left; a trial that has fewer than the median is stopped."""
    path = written(
        root,
        (
            "- nni.l1norm: {sparsity: 0.5}",
            "- nni.l1norm: {sparsity: 0.5}\n  - train.finetune: {epochs: 1, batch_size: 2}",
        ),
        ("nni.random", "nni.random\n  stop_early: nni.medianstop"),
        ("maximize: map", "maximize: nonzero_parameters"),
        ('  subject_to: {nonzero_parameters: "<= 0.5x"}\n', ""),
    )
    result = search(read_recipe(path), tmp_path / "store", tmp_path / "run")
    stopped = [trial for trial in result.trials if trial.status == "stopped"]
    done = [trial for trial in result.trials if trial.status == "done"]
    assert stopped
    assert all(trial.reason == "stopped early, after nni.l1norm" for trial in stopped)
    assert max(t.metrics["nonzero_parameters"] for t in stopped) < max(t.metrics["nonzero_parameters"] for t in done)


def test_a_killed_search_goes_on_where_it_was_and_writes_nowhere_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(root, ("trials: 5", "trials: 6"), ("nni.random", "{nni.tpe: {startup: 2}}"), ("[torch]", "[]"))
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    command = [sys.executable, "-m", "detpress.cli", "run", str(path), "--out", str(tmp_path / "run"), "--json"]
    environment = os.environ | {"HOME": str(home), "DETPRESS_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    trials = tmp_path / "run/trials.json"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if trials.exists() and len(json.loads(trials.read_text())["trials"]) >= 3:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = json.loads(trials.read_text())
    assert 3 <= len(before["trials"]) < 6
    kept = {folder: folder.stat().st_ino for folder in tmp_path.glob("cache/store/stages/*/*")}
    monkeypatch.chdir(work)
    for name in ("HOME", "DETPRESS_CACHE"):
        monkeypatch.setenv(name, environment[name])
    code, out, err = begin(tmp_path / "printed", detpress, *command[3:]).end()
    assert code == 0, err
    results = json.loads(out)
    after = results["search"]
    assert after["trials"][: len(before["trials"])] == before["trials"]
    assert len(after["trials"]) == 6
    assert {folder: folder.stat().st_ino for folder in kept} == kept
    assert results["stages"][-1]["key"] == after["trials"][after["winner"]]["key"]
    assert results["recipe"] == read_recipe(tmp_path / "run/winner.yaml").as_dict() | {"name": "small"}
    assert (tmp_path / "run/trials.html").stat().st_size > 10_000
    assert list(home.rglob("*")) == []
    assert list(work.rglob("*")) == []
