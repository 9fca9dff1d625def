"""What a study found: one row a recipe, over its seeds, beside the baseline.

Two kinds of chance are told apart. Over the seeds, each figure has a mean, a standard deviation and its extremes.
Over the test images, the mean mAP of the seeds has a bootstrap interval, and so has its difference from the baseline's,
both models being scored on the same resamples.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detpress.contract.registry import engine_version
from detpress.measure.figures import flat_figures, higher_is_better, is_simulated
from detpress.measure.scoring import protocol_id
from detpress.measure.section import Measure
from detpress.recipe.file import Recipe
from detpress.run.stage import Stage
from detpress.run.store import write_atomically
from detpress.study.choose import pareto_front
from detpress.study.definition import Study
from detpress.study.running import Outcome, stage_folder
from detpress.voc.bootstrap import RESAMPLES, Counts, centred, draw_images, interval, resampled_map
from detpress.voc.devkit import Devkit
from detpress.voc.evaluate import find_matches
from detpress.voc.results import read_results

COSTS = ("parameters", "macs", "storage_bytes.on_disk")  # beside every latency: what mAP is traded against


@dataclass(frozen=True)
class Scored:
    """A chain run with one seed; its last stage is what is compared."""

    seed: int
    stages: Sequence[Stage]


@dataclass(frozen=True)
class Scoring:
    """How mAP came about, so that it can be had of other images. keep: keep resampled mAPs beside their measurement."""

    devkit: Devkit
    test: str
    measure: Measure
    keep: bool = True


def compare(study: Study, outcomes: Sequence[Outcome], devkit: Devkit) -> dict[str, Any]:
    """What study.json holds; see docs/studies.md."""
    recipe = study.jobs[0].recipe
    candidates: dict[str, list[Scored]] = {name: [] for name in study.variants}
    for outcome in outcomes:
        if outcome.failure is None:
            candidates[outcome.job.variant].append(Scored(outcome.job.seed, outcome.stages))
    rows = compare_rows(candidates, study.baseline, Scoring(devkit, recipe.data.test, recipe.measure))
    for row in rows:
        of_row = [outcome for outcome in outcomes if outcome.job.variant == row["name"]]
        row["parameters"] = of_row[0].job.parameters if of_row else {}
        row["failed"] = {str(found.job.seed): found.failure for found in of_row if found.failure is not None}
    return {
        "study": study.name,
        "description": study.description,
        "protocol": protocol_id(recipe.measure),
        "test_set": {
            "root": recipe.data.root,
            "name": recipe.data.test,
            "images": len(devkit.image_set(recipe.data.test)),
            "classes": list(devkit.classes),
        },
        "resamples": RESAMPLES,
        "seeds": list(study.seeds),
        "baseline": study.baseline,
        "metrics": list(study.metrics),
        "versions": _versions([outcome.job.recipe for outcome in outcomes]),
        "rows": rows,
        "jobs": [_job(outcome) for outcome in outcomes],
    }


def compare_rows(candidates: Mapping[str, Sequence[Scored]], baseline: str, scoring: Scoring) -> list[dict[str, Any]]:
    """One row a candidate, over its seeds; one without a finished seed has no figures."""
    counts = draw_images(len(scoring.devkit.image_set(scoring.test)))
    resampled = {
        (name, scored.seed): resampled_maps(scored.stages[-1], scoring, counts)
        for name, found in candidates.items()
        for scored in found
    }
    baseline_map = {scored.seed: scored.stages[-1].metrics["map"] for scored in candidates[baseline]}
    rows = []
    for name, found in candidates.items():
        row = _row(name, found)
        if found:
            row["map_interval"] = _bounds(
                [resampled[name, scored.seed] for scored in found], row["figures"]["map"]["mean"]
            )
        paired = [scored for scored in found if scored.seed in baseline_map]
        if paired and name != baseline:
            by_seed = [scored.stages[-1].metrics["map"] - baseline_map[scored.seed] for scored in paired]
            differences = [resampled[name, scored.seed] - resampled[baseline, scored.seed] for scored in paired]
            bounds = _bounds(differences, float(np.mean(by_seed)))
            row["difference"] = {
                "mean": float(np.mean(by_seed)),
                **bounds,
                "by_seed": by_seed,
                "verdict": verdict(bounds["low"], bounds["high"], by_seed),
            }
        rows.append(row)
    _mark_fronts(rows)
    return rows


def write_study_folder(study: Study, results: dict[str, Any], folder: Path) -> None:
    """study.json and study.yaml, beside what `run_study` writes."""
    (folder / "study.yaml").write_text(study.text, encoding="utf-8")
    write_atomically(folder / "study.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def resampled_maps(stage: Stage, scoring: Scoring, counts: Counts) -> NDArray[np.float64]:
    """mAP of the stage on each resample."""
    kept = stage.detections.parent / f"resampled-{len(counts)}.npy"
    if kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False))
    devkit, measure = scoring.devkit, scoring.measure
    detections = read_results(stage.detections, scoring.test, devkit.classes)
    matches = find_matches(devkit.image_set(scoring.test), detections, measure.protocol, measure.iou)
    found = resampled_map(matches, measure.protocol, counts)
    if scoring.keep:
        unfinished = kept.with_suffix(".unfinished.npy")
        np.save(unfinished, found, allow_pickle=False)
        unfinished.replace(kept)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, sample standard deviation (0 of a single value) and extremes."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }


def verdict(low: float, high: float, by_seed: Sequence[float]) -> str:
    """`better` or `worse` where the interval of the difference excludes 0 and all seeds agree, else `within noise`."""
    if low > 0 and min(by_seed) > 0:
        return "better"
    if high < 0 and max(by_seed) < 0:
        return "worse"
    return "within noise"


def _row(name: str, found: Sequence[Scored]) -> dict[str, Any]:
    figures = [figures_of(scored.stages) for scored in found]
    shared = [key for key in (figures[0] if figures else {}) if all(key in other for other in figures)]
    return {
        "name": name,
        "chain": [stage.plugin for stage in found[0].stages[1:]] if found else [],
        "form": found[0].stages[-1].form if found else None,
        "seeds": [scored.seed for scored in found],
        "figures": {key: spread([other[key] for other in figures]) for key in shared},
        "simulated": sorted({what for scored in found for what in scored.stages[-1].metrics["simulated"]}),
        "busy": sorted({name for scored in found for name in _taken_while_busy(scored.stages[-1])}),
        "processors": sorted({scored.stages[-1].metrics["processor"] for scored in found}),
        "map_interval": None,
        "difference": None,
        "fronts": [],
    }


def _taken_while_busy(stage: Stage) -> list[str]:
    return [f"latency_ms.{name}.median" for name, found in stage.metrics["latency_ms"].items() if found.get("busy")]


def figures_of(stages: Sequence[Stage]) -> dict[str, float]:
    """The figures of the last stage, and the seconds that making all of them took."""
    return dict(flat_figures(stages[-1].metrics)) | {"seconds": sum(stage.seconds for stage in stages)}


def _bounds(by_seed: Sequence[NDArray[np.float64]], measured: float) -> dict[str, float]:
    """The interval of the mean over the seeds, which was measured as given."""
    found = interval(centred(np.mean(by_seed, axis=0), measured))
    return {"low": found.low, "high": found.high}


def _mark_fronts(rows: list[dict[str, Any]]) -> None:
    """Adds to each row the costs on whose Pareto front against mAP it lies; simulated costs are left out."""
    finished = [row for row in rows if row["figures"]]
    latencies = {key for row in finished for key in row["figures"] if key.startswith("latency_ms.")}
    for cost in (*COSTS, *sorted(key for key in latencies if key.endswith(".median"))):
        compared = [row for row in finished if cost in row["figures"] and not is_simulated(cost, row["simulated"])]
        means = [[row["figures"][key]["mean"] for row in compared] for key in (cost, "map")]
        for i in pareto_front(*means):
            compared[i]["fronts"].append(cost)


def best_row(rows: Sequence[dict[str, Any]], figure: str) -> dict[str, Any] | None:
    """The row whose mean is best: the highest mAP or AP, the lowest of any other figure. None without a row."""
    having = [row for row in rows if figure in row["figures"]]
    sign = -1 if higher_is_better(figure) else 1
    return min(having, key=lambda row: sign * row["figures"][figure]["mean"], default=None)


def means(row: dict[str, Any]) -> dict[str, float]:
    """The row's figures as a condition compares them."""
    return {key: value["mean"] for key, value in row["figures"].items()}


def _versions(recipes: Sequence[Recipe]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    packages = {"detpress", "torch", "torchvision"}
    for recipe in recipes:
        packages |= {step.plugin.engine for step in recipe.chain if step.plugin.engine and engine_version(step.plugin)}
        packages |= set(recipe.measure.runtimes) - {"torch-compile"}
    return found | {name: version(name) for name in sorted(packages)}


def _job(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.job.name,
        "row": outcome.job.variant,
        "seed": outcome.job.seed,
        "status": "done" if outcome.failure is None else "failed",
        "reason": outcome.failure,
        "log": f"logs/{outcome.log.name}" if outcome.log.is_file() else None,
        "recipe_file": f"recipes/{outcome.job.name}.yaml",
        "recipe": outcome.job.recipe.as_dict(),
        "stages": [
            stage.as_dict() | {"bundle": f"{stage_folder(stage.key, stage.plugin)}/bundle"} for stage in outcome.stages
        ],
    }
