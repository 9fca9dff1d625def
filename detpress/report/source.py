"""What a report is made from: the folder that `detpress run` or `detpress compare` left."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from detpress.detector.form import Form
from detpress.errors import InputError, cut_short, shortened
from detpress.files.plain_json import read_json
from detpress.measure.figures import DEFAULT_FIGURES
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.report.table import baseline
from detpress.run.stage import Stage
from detpress.study.comparison import Scored, Scoring, compare_rows
from detpress.voc.bootstrap import RESAMPLES
from detpress.voc.devkit import Devkit
from detpress.voc.named import open_data


@dataclass(frozen=True)
class RowSource:
    """Where one row's details lie.

    stages: those of its first seed, and first fold, the row's own last; recipe: as YAML.
    """

    name: str
    stages: Sequence[Stage]
    recipe: str


@dataclass(frozen=True)
class Source:
    """results: as study.json has them; of a run, each stage is a row. devkit: of folds, with the first one's images."""

    results: dict[str, Any]
    rows: list[RowSource]
    devkit: Devkit
    measure: Measure
    test: str
    failures: list[tuple[str, str, str]]  # run, reason, the end of its log


def read_source(folder: Path) -> Source:
    """Raises InputError where the folder is neither a run's nor a study's, or its data set is gone."""
    for name, read in (("study.json", _read_study), ("results.json", _read_run)):
        path = folder / name
        if path.is_file():
            results = _read_results(path)
            with named_in_errors(path):
                return read(folder, results)
    raise InputError(f"{folder}: expected the folder of a run (results.json) or of a study (study.json)")


def read_study(path: Path) -> dict[str, Any]:
    """A study.json that lies alone. Raises InputError where it is no such file."""
    results = _read_results(path)
    if not isinstance(results, dict) or "rows" not in results:
        raise InputError(f"{path}: expected a study.json, or the folder of a run or a study")
    return results


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Raises InputError with the path for whatever shows that detpress did not write the file."""
    try:
        yield
    except OSError as error:
        named = cut_short(str(error.filename))
        raise InputError(f"{path}: names {named}, which cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not what detpress writes: {_missing(error)}") from error


def _read_results(path: Path) -> Any:
    """What the file says. Raises InputError for NaN and Infinity, too, which are no JSON but Python's."""

    def refuse(constant: str) -> NoReturn:
        raise InputError(f"{path}: holds {constant}; expected finite numbers")

    return read_json(path, parse_constant=refuse)


def _read_study(folder: Path, results: dict[str, Any]) -> Source:
    rows = []
    for row in results["rows"]:
        done = [job for job in results["jobs"] if job["row"] == row["name"] and job["status"] == "done"]
        job = next((job for job in done if not job.get("fold")), None)
        if job:
            stages = [_stage(entry, folder / Path(entry["bundle"]).parent) for entry in job["stages"]]
            rows.append(RowSource(row["name"], stages, (folder / job["recipe_file"]).read_text(encoding="utf-8")))
    failures = [
        (job["name"], job["reason"], _tail(folder / job["log"]) if job["log"] else "")
        for job in results["jobs"]
        if job["status"] == "failed"
    ]
    recipe = results["jobs"][0]["recipe"]
    test_set = results["test_set"]
    devkit = open_data(test_set["root"], test_set["classes"], Data.model_validate(recipe["data"]).split)
    return Source(results, rows, devkit, Measure.model_validate(recipe["measure"]), test_set["name"], failures)


def _read_run(folder: Path, run: dict[str, Any]) -> Source:
    recipe, entries = run["recipe"], run["stages"]
    stages = [_stage(entry, folder / f"{entry['index']}-{entry['plugin']}") for entry in entries]
    names = [f"{stage.index} {stage.plugin}" for stage in stages]
    devkit = open_data(
        recipe["data"]["root"],
        read_json(stages[0].bundle / "model.json")["architecture"]["classes"],
        Data.model_validate(recipe["data"]).split,
    )
    measure, test = Measure.model_validate(recipe["measure"]), recipe["data"]["test"]
    candidates = {name: [Scored(run["seed"], [stages[: i + 1]])] for i, name in enumerate(names)}
    reference = names[baseline(run)["index"]]
    rows = compare_rows(candidates, reference, Scoring([devkit], test, measure, keep=False))
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    results = {
        "study": recipe["name"],
        "description": "",
        "protocol": run["protocol"],
        "test_set": {"root": recipe["data"]["root"], "name": test, "images": len(devkit.image_set(test))},
        "resamples": RESAMPLES,
        "seeds": [run["seed"]],
        "baseline": reference,
        "metrics": [*(name for name in DEFAULT_FIGURES if name in rows[0]["figures"]), *_plugins_own(rows)],
        "versions": run["versions"],
        "rows": [row | {"parameters": {}, "failed": {}} for row in rows],
    }
    sources = [RowSource(name, stages[: i + 1], text) for i, name in enumerate(names)]
    failed = [(recipe["name"], run["failed"], "")] if run.get("failed") else []
    return Source(results, sources, devkit, measure, test, failed)


def _plugins_own(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The figures that plugins gave to any of the rows."""
    return list(dict.fromkeys(name for row in rows for name in row["figures"] if name.startswith("plugin.")))


def _stage(entry: dict[str, Any], folder: Path) -> Stage:
    return Stage(
        entry["index"],
        entry["plugin"],
        Form(entry["form"]),
        entry["key"],
        folder,
        entry["reused"],
        entry["seconds"],
        entry.get("environment"),
        entry.get("notes", []),
        entry["metrics"],
        folder / "results",
    )


def _missing(error: Exception) -> str:
    return f"{shortened(error.args[0])} is missing" if isinstance(error, KeyError) else "a value of another kind"


def _tail(path: Path, lines: int = 40) -> str:
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
