"""What a study found: one row a recipe, over its seeds, beside the baseline.

Two kinds of chance are told apart. Over the seeds, each figure has a mean, a standard deviation and its extremes.
Over the test images, the mean mAP of the seeds has a bootstrap interval, and so has its difference from the baseline's,
both models being scored on the same resamples.

Where the images are dealt into folds, a seed is one model a fold, each of which was tested on images that it had not
seen. Their detections are put together and scored at once, as those of one detector on all images.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detpress.contract.registry import engine_version
from detpress.errors import InputError, shortened
from detpress.files.folders import write_atomically
from detpress.files.plain_json import read_json
from detpress.measure.figures import flat_figures, higher_is_better, is_simulated
from detpress.measure.scoring import protocol_id
from detpress.measure.section import Measure
from detpress.recipe.file import Recipe
from detpress.run.stage import Stage
from detpress.run.store import digest
from detpress.runtimes.names import package_of
from detpress.study.choose import pareto_front
from detpress.study.definition import Study
from detpress.study.running import Outcome, stage_folder
from detpress.voc.annotation import Annotation
from detpress.voc.bootstrap import RESAMPLES, Counts, centred, draw_images, interval, resampled_map
from detpress.voc.devkit import Devkit
from detpress.voc.evaluate import evaluate, find_matches
from detpress.voc.results import ClassDetections, joined, read_results

COSTS = ("parameters", "macs", "storage_bytes.on_disk")  # beside every latency: what mAP is traded against


@dataclass(frozen=True)
class Scored:
    """A chain run with one seed; its last stage is what is compared.

    chains: the stages of one run, or of one a fold.
    """

    seed: int
    chains: Sequence[Sequence[Stage]]

    @property
    def ends(self) -> list[Stage]:
        return [stages[-1] for stages in self.chains]


@dataclass(frozen=True)
class Scoring:
    """How mAP came about, so that it can be had of other images.

    devkits: the data set, or one a fold, each with its own images in the set `test`.
    keep: keep resampled mAPs beside their measurement.
    """

    devkits: Sequence[Devkit]
    test: str
    measure: Measure
    keep: bool = True

    @cached_property
    def annotations(self) -> list[Annotation]:
        """Of the test images of all folds."""
        return [annotation for devkit in self.devkits for annotation in devkit.image_set(self.test)]

    def detections(self, ends: Sequence[Stage]) -> dict[str, ClassDetections]:
        """Of all folds together, by class."""
        return joined(
            [
                read_results(stage.detections, self.test, devkit.classes)
                for stage, devkit in zip(ends, self.devkits, strict=True)
            ]
        )


def compare(study: Study, outcomes: Sequence[Outcome], devkits: Mapping[int | None, Devkit]) -> dict[str, Any]:
    """What study.json holds; see docs/studies.md. devkits: the data set by fold."""
    recipe = study.jobs[0].recipe
    finished = {
        (outcome.job.variant, outcome.job.seed, outcome.job.fold): outcome.stages
        for outcome in outcomes
        if outcome.failure is None
    }
    candidates = {
        name: [
            Scored(seed, [finished[name, seed, fold] for fold in study.folds])
            for seed in study.seeds
            if all((name, seed, fold) in finished for fold in study.folds)
        ]
        for name in study.variants
    }
    scoring = Scoring([devkits[fold] for fold in study.folds], recipe.data.test, recipe.measure)
    rows = compare_rows(candidates, study.baseline, scoring)
    for row in rows:
        of_row = [outcome for outcome in outcomes if outcome.job.variant == row["name"]]
        row["parameters"] = of_row[0].job.parameters if of_row else {}
        row["failed"] = {str(found.job.seed): found.failure for found in reversed(of_row) if found.failure is not None}
    return {
        "study": study.name,
        "description": study.description,
        "protocol": protocol_id(recipe.measure),
        "test_set": {
            "root": recipe.data.root,
            "name": recipe.data.test,
            "images": len(scoring.annotations),
            "classes": list(scoring.devkits[0].classes),
        },
        "resamples": RESAMPLES,
        "seeds": list(study.seeds),
        "folds": [fold for fold in study.folds if fold is not None],
        "baseline": study.baseline,
        "metrics": list(study.metrics),
        "versions": _versions([outcome.job.recipe for outcome in outcomes]),
        "rows": rows,
        "jobs": [_job(outcome) for outcome in outcomes],
    }


def compare_rows(candidates: Mapping[str, Sequence[Scored]], baseline: str, scoring: Scoring) -> list[dict[str, Any]]:
    """One row a candidate, over its seeds; one without a finished seed has no figures."""
    counts = draw_images(len(scoring.annotations))
    resampled = {
        (name, scored.seed): resampled_maps(scored.ends, scoring, counts)
        for name, found in candidates.items()
        for scored in found
    }
    figures = {
        (name, scored.seed): figures_of(scored, scoring) for name, found in candidates.items() for scored in found
    }
    rows = []
    for name, found in candidates.items():
        row = _row(name, found, [figures[name, scored.seed] for scored in found])
        if found:
            bounds = _bounds([resampled[name, scored.seed] for scored in found], row["figures"]["map"]["mean"])
            row["map_interval"] = {end: min(max(value, 0.0), 1.0) for end, value in bounds.items()}
        paired = [scored.seed for scored in found if (baseline, scored.seed) in figures]
        if paired and name != baseline:
            by_seed = [figures[name, seed]["map"] - figures[baseline, seed]["map"] for seed in paired]
            differences = [resampled[name, seed] - resampled[baseline, seed] for seed in paired]
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


def check_folder(study: Study, folder: Path) -> None:
    """Raises InputError where `folder` has what would be replaced: the results of a study of another name, or a
    study.yaml that is of none."""
    path = folder / "study.json"
    if path.is_file():
        found = read_json(path)
        there = found.get("study") if isinstance(found, dict) else None
        if there != study.name:
            here = shortened(study.name)
            raise InputError(f"{path}: holds the results of {shortened(there)}, not of {here}; expected another --out")
    elif (folder / "study.yaml").exists():
        raise InputError(f"{folder / 'study.yaml'}: is there already, without results; expected another --out")


def has_more_jobs(study: Study, outcomes: Sequence[Outcome], folder: Path) -> bool:
    """Whether `folder` has results of the very same study with more jobs than `outcomes`."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        same = (folder / "study.yaml").read_text(encoding="utf-8") == study.text
        return same and len(json.loads((folder / "study.json").read_text(encoding="utf-8"))["jobs"]) > len(outcomes)
    return False


def write_study_folder(study: Study, results: dict[str, Any], folder: Path) -> None:
    """study.json and study.yaml, beside what `run_study` writes."""
    write_atomically(folder / "study.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "study.yaml", study.text)


def resampled_maps(ends: Sequence[Stage], scoring: Scoring, counts: Counts) -> NDArray[np.float64]:
    """mAP on each resample, of one stage or of one a fold."""
    measure = scoring.measure
    others = f"-{digest([stage.key for stage in ends])[:16]}" if len(ends) > 1 else ""
    kept = ends[0].detections.parent / f"resampled-{len(counts)}{others}.npy"
    with suppress(OSError, EOFError, ValueError):  # not there, or cut short where the disk was full
        return np.asarray(np.load(kept, allow_pickle=False))
    matches = find_matches(scoring.annotations, scoring.detections(ends), measure.protocol, measure.iou)
    found = resampled_map(matches, measure.protocol, counts)
    if scoring.keep:
        unfinished = kept.with_suffix(f".{os.getpid()}.npy")
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


def _row(name: str, found: Sequence[Scored], figures: Sequence[dict[str, float]]) -> dict[str, Any]:
    ends = [stage for scored in found for stage in scored.ends]
    shared = [key for key in (figures[0] if figures else {}) if all(key in other for other in figures)]
    return {
        "name": name,
        "chain": [stage.plugin for stage in found[0].chains[0][1:]] if found else [],
        "form": ends[0].form if found else None,
        "seeds": [scored.seed for scored in found],
        "figures": {key: spread([other[key] for other in figures]) for key in shared},
        "simulated": sorted({what for stage in ends for what in stage.metrics["simulated"]}),
        "busy": sorted({name for stage in ends for name in _taken_while_busy(stage)}),
        "processors": sorted({stage.metrics["processor"] for stage in ends}),
        "map_interval": None,
        "difference": None,
        "fronts": [],
    }


def _taken_while_busy(stage: Stage) -> list[str]:
    return [f"latency_ms.{name}.median" for name, found in stage.metrics["latency_ms"].items() if found.get("busy")]


def figures_of(scored: Scored, scoring: Scoring) -> dict[str, float]:
    """The figures of the last stage, and the seconds that making all of them took.

    Of folds the means, but for average precision, which is that of all images together.
    """
    of_folds = [
        dict(flat_figures(stages[-1].metrics)) | {"seconds": sum(stage.seconds for stage in stages)}
        for stages in scored.chains
    ]
    if len(of_folds) == 1:
        return of_folds[0]
    measure = scoring.measure
    found = evaluate(scoring.annotations, scoring.detections(scored.ends), measure.protocol, measure.iou)
    shared = [name for name in of_folds[0] if all(name in figures for figures in of_folds)]
    means = {name: float(np.mean([figures[name] for figures in of_folds])) for name in shared}
    return means | {"map": found.map} | {f"ap.{name}": value for name, value in found.ap.items()}


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
        packages |= {package_of(name) for name in recipe.measure.runtimes}
    return found | {name: version(name) for name in sorted(packages)}


def _job(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.job.name,
        "row": outcome.job.variant,
        "seed": outcome.job.seed,
        "fold": outcome.job.fold,
        "status": "done" if outcome.failure is None else "failed",
        "reason": outcome.failure,
        "log": f"logs/{outcome.log.name}" if outcome.log.is_file() else None,
        "recipe_file": f"recipes/{outcome.job.name}.yaml",
        "recipe": outcome.job.recipe.as_dict(),
        "stages": [
            stage.as_dict() | {"bundle": f"{stage_folder(stage, outcome.job)}/bundle"} for stage in outcome.stages
        ],
    }
