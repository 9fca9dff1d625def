"""A run and a study in a real MLflow over SQLite; nothing is written elsewhere."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from processes import begin, detpress

from detpress.report.tracking import _distinct
from detpress.voc.digits import write_digits

RECIPE = """\
name: {name}
data: {{root: digits}}
model: {{weights: "builtin:digits"}}
chain: {chain}
measure: {{runtimes: [], memory: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracking")
    write_digits(folder / "digits", {"train": 8, "val": 4, "test": 8})
    (folder / "pruned.yaml").write_text(
        RECIPE.format(name="pruned", chain="[nni.l1norm: {sparsity: 0.2}, nni.speedup]")
    )
    (folder / "broken.yaml").write_text(
        RECIPE.format(name="broken", chain="[inc.static_int8: {calibration_images: 1000}]")
    )
    return folder


def run(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    """`detpress ARGUMENTS` in `folder`, in a process of its own: its exit code, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DETPRESS_CACHE", str(folder / "cache"))
        return begin(folder.with_name(f"{folder.name}-printed"), detpress, *arguments).end()


def test_a_run_is_kept_with_its_recipe_its_metrics_by_stage_and_its_report(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    code, out, err = run(folder, "run", "pruned.yaml", "--mlflow", "sqlite:///runs.db", "--json")
    assert code == 0, err
    results = json.loads(out)
    client = MlflowClient(f"sqlite:///{folder}/runs.db")
    experiment = client.get_experiment_by_name("detpress")
    [found] = client.search_runs([experiment.experiment_id], "tags.`mlflow.runName` = 'pruned'")
    assert found.info.status == "FINISHED"
    assert found.data.params["chain.0.nni.l1norm.sparsity"] == "0.2"
    assert found.data.params["seed"] == "0"
    history = client.get_metric_history(found.info.run_id, "parameters")
    assert [(metric.step, metric.value) for metric in history] == [
        (stage["index"], stage["metrics"]["parameters"]) for stage in results["stages"]
    ]
    assert found.data.metrics["ap.three"] == results["stages"][-1]["metrics"]["ap"]["three"]
    kept = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
    assert kept == {"results.json", "recipe.yaml", "report.html", "report.md", "report.csv"}
    assert {path.name for path in folder.iterdir()} - before == {"cache", "runs", "runs.db", "mlartifacts"}


def test_a_study_is_a_run_with_one_below_it_for_each_recipe_and_seed(folder: Path) -> None:
    code, _, _ = run(folder, "compare", "pruned.yaml", "broken.yaml", "--mlflow", "sqlite:///runs.db", "--quiet")
    assert code == 1, "one recipe fails"
    client = MlflowClient(f"sqlite:///{folder}/runs.db")
    experiment = client.get_experiment_by_name("detpress")
    [whole] = client.search_runs([experiment.experiment_id], "tags.`mlflow.runName` = 'compare-pruned-broken'")
    below = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{whole.info.run_id}'", order_by=["run_name"]
    )
    status = {one.data.tags["mlflow.runName"]: one.info.status for one in below}
    assert status == {"broken-seed0": "FAILED", "pruned-seed0": "FINISHED"}
    [broken] = [one for one in below if one.info.status == "FAILED"]
    assert "1000 calibration images asked for" in broken.data.tags["failure"]
    assert whole.data.tags["failure"] == "1 of 2 runs failed"
    assert "study.json" in {artifact.path for artifact in client.list_artifacts(whole.info.run_id)}


def test_a_server_that_is_not_there_is_one_line_before_anything_is_computed(folder: Path) -> None:
    code, _, err = run(folder, "run", "pruned.yaml", "--mlflow", "http://127.0.0.1:9", "--out", "none")
    assert code == 2
    assert err.splitlines()[-1].startswith("detpress: --mlflow http://127.0.0.1:9: MlflowException:")
    assert "Traceback" not in err
    assert not list((folder / "none").iterdir())


def test_classes_that_mlflow_could_not_tell_apart_are_metrics_of_their_own() -> None:
    """MLflow takes letters, digits and `_-./ :`; its files may lie on a disk that knows no upper case."""
    classes = ["ap.cat", "ap.a@b", "ap.a,b", "ap.Dog", "ap.dog", "ap." + 300 * "x", "ap." + 300 * "x" + "y", "ap.<new>"]
    named = _distinct(classes)
    assert named["ap.cat"] == "ap.cat"
    assert named["ap.<new>"] == "ap._new_"
    assert len({name.casefold() for name in named.values()}) == len(classes)
    assert max(map(len, named.values())) <= 250
    assert named == _distinct(reversed(classes)), "a name does not depend on the order of the others"
