"""Runs and studies in MLflow: parameters, metrics of each stage, results and report.

A run of a recipe is one MLflow run; a study is one with a nested run for each recipe and seed. The metrics of stage i
are those of step i, by their names in results.json. Nothing of MLflow's global state is used.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from detpress.errors import InputError, StageError
from detpress.measure.figures import flat_figures

# Both are read when MLflow is imported. Seven retries, its default, would hide for minutes that no server is there.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

EXPERIMENT = "detpress"
PARAMETERS_A_CALL = 100  # that MLflow takes
LONGEST = 6000  # characters of a parameter
LONGEST_NAME = 250
SQLITE = "sqlite:///"


class Tracking:
    """The MLflow tracking server or store `uri`. Raises InputError where it cannot be reached.

    Beside a SQLite file, which cannot hold files, these go into the folder `mlartifacts`; a server has its own place.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        place = Path(uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts" if uri.startswith(SQLITE) else None
        try:
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(EXPERIMENT)
            self.experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(EXPERIMENT, artifact_location=place.as_uri() if place else None)
            )
        except Exception as error:  # whatever its store, its database or the network raise
            raise InputError(f"--mlflow {uri}: {type(error).__name__}: {str(error).splitlines()[0]}") from error

    def log(self, results: Mapping[str, Any], folder: Path) -> None:
        """Logs a run or a study: what results.json or study.json in `folder` holds, and its report.

        Raises StageError where MLflow fails.
        """
        try:
            if "jobs" in results:
                self._log_study(results, folder)
            else:
                self._log_run(results, folder)
        except MlflowException as error:
            raise StageError(f"--mlflow {self.uri}: {error}; the results are in {folder}") from error

    def _log_run(self, results: Mapping[str, Any], folder: Path) -> None:
        run = self._run(results["recipe"]["name"], results["recipe"], results["stages"])
        self._end(run, folder, ("results.json", "recipe.yaml"), failure=None)

    def _log_study(self, results: Mapping[str, Any], folder: Path) -> None:
        whole = self._run(results["study"], {"seeds": results["seeds"], "baseline": results["baseline"]}, [])
        for job in results["jobs"]:
            run = self._run(job["name"], job["recipe"], job["stages"], parent=whole)
            self._end(run, folder, (job["recipe_file"],), job["reason"], report=False)
        failed = sum(job["status"] == "failed" for job in results["jobs"])
        reason = f"{failed} of {len(results['jobs'])} runs failed" if failed else None
        self._end(whole, folder, ("study.json", "study.yaml"), reason)

    def _run(
        self, name: str, recipe: Mapping[str, Any], stages: Sequence[Mapping[str, Any]], parent: str | None = None
    ) -> str:
        tags = {"mlflow.runName": name} | ({"mlflow.parentRunId": parent} if parent else {})
        run = str(self.client.create_run(self.experiment, tags=tags).info.run_id)
        leaves = dict(_flat(recipe))
        named = _distinct(leaves)
        parameters = [Param(named[key], str(value)[:LONGEST]) for key, value in leaves.items()]
        for start in range(0, len(parameters), PARAMETERS_A_CALL):
            self.client.log_batch(run, params=parameters[start : start + PARAMETERS_A_CALL])
        now = int(datetime.now().timestamp() * 1000)
        for stage in stages:
            figures = dict(flat_figures(stage["metrics"])) | {"seconds": stage["seconds"]}
            named = _distinct(figures)
            metrics = [Metric(named[key], value, now, stage["index"]) for key, value in figures.items()]
            simulated = ", ".join(stage["metrics"]["simulated"]) or "none"
            self.client.log_batch(run, metrics, tags=[RunTag(f"simulated.{stage['index']}", simulated)])
        return run

    def _end(self, run: str, folder: Path, names: Sequence[str], failure: str | None, report: bool = True) -> None:
        """Keeps the files `names`, and the report, with the run, and closes it."""
        from detpress.report.page import write_report

        reports = [path.name for path in write_report(folder).values()] if report else []
        for name in (*names, *reports):
            self.client.log_artifact(run, str(folder / name))
        if failure is not None:
            self.client.set_tag(run, "failure", failure)
        self.client.set_terminated(run, "FINISHED" if failure is None else "FAILED")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of a recipe under dotted names: `chain.0.nni.l1norm.sparsity`."""
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _flat(inner, f"{prefix}{key}.")]
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        return [leaf for i, inner in enumerate(value) for leaf in _flat(inner, f"{prefix}{i}.")]
    return [(prefix.removesuffix("."), value)]


def _distinct(names: Iterable[str]) -> dict[str, str]:
    """Name -> the name in MLflow, which takes few characters and has no upper and lower case on some disks: two names
    that it could not tell apart, such as those of the classes `a@b` and `a,b`, end in a part of their digest."""
    known = list(names)
    allowed = {name: re.sub(r"[^\w./ :-]", "_", name)[:LONGEST_NAME] for name in known}
    shared = Counter(spelled.casefold() for spelled in allowed.values())

    def told_apart(name: str) -> str:
        ending = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return allowed[name][: LONGEST_NAME - len(ending)] + ending

    return {name: told_apart(name) if shared[allowed[name].casefold()] > 1 else allowed[name] for name in known}
