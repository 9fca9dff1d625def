"""A study over folds, really run: every image is tested by a model that did not see it, all are scored together."""

from pathlib import Path

import numpy as np
import pytest
from small_study import Finished, run

from detpress.errors import InputError
from detpress.recipe.file import read_recipe
from detpress.report.page import write_report
from detpress.run.initial_model import open_recipe_data
from detpress.study.definition import read_study
from detpress.voc.bootstrap import centred, draw_images, interval, resampled_map
from detpress.voc.digits import write_digits
from detpress.voc.evaluate import evaluate, find_matches
from detpress.voc.results import joined, read_results

STUDY = """\
name: folds
shared:
  data: {root: digits, split: {folds: 2}}
  model: {weights: "builtin:digits"}
  measure: {runtimes: [torch, openvino-bf16], memory: false}
baseline: whole
recipes:
  - {name: trained, chain: [train.finetune: {epochs: 1, learning_rate: 0.0001}]}
  - {name: whole, chain: []}  # the first stage of the other: no process is started for it
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    write_digits(folder / "digits", {"train": 8, "val": 4, "test": 8})
    (folder / "folds.yaml").write_text(STUDY)
    return folder / "folds.yaml"


@pytest.fixture(scope="module")
def finished(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETPRESS_CACHE", str(cache))
        return run(study_file, cache, study_file.parent / "runs")


def test_every_recipe_runs_with_each_fold(finished: Finished) -> None:
    assert [job["name"] for job in finished.results["jobs"]] == [
        f"{name}-seed0-fold{fold}" for fold in (0, 1) for name in ("trained", "whole")
    ]
    assert finished.results["folds"] == [0, 1]
    assert {"detpress", "openvino", "torch"} <= finished.results["versions"].keys()
    trained = [job["stages"][1]["key"] for job in finished.results["jobs"] if job["row"] == "trained"]
    assert len(set(trained)) == 2, "each was trained on the other half"


def test_map_and_its_intervals_are_of_all_images_together(finished: Finished) -> None:
    folds = {planned.job.fold: planned.devkit for planned in finished.plan.jobs}
    annotations = [annotation for fold in (0, 1) for annotation in folds[fold].image_set("test")]
    assert len({annotation.image for annotation in annotations}) == finished.results["test_set"]["images"] == 20
    rows = {row["name"]: row for row in finished.results["rows"]}
    counts = draw_images(20)
    resampled = {}
    for name in ("whole", "trained"):
        found = []
        for job in finished.results["jobs"]:
            if job["row"] == name:
                results = (finished.folder / job["stages"][-1]["bundle"]).parent / "results"
                found.append(read_results(results, "test", folds[job["fold"]].classes))
        together = joined(found)
        assert rows[name]["figures"]["map"]["mean"] == evaluate(annotations, together).map
        resampled[name] = resampled_map(find_matches(annotations, together), "voc07", counts)
    difference = rows["trained"]["difference"]
    expected = interval(centred(resampled["trained"] - resampled["whole"], difference["mean"]))
    assert (difference["low"], difference["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    latencies = [
        job["stages"][-1]["metrics"]["latency_ms"]["torch"]["median"]
        for job in finished.results["jobs"]
        if job["row"] == "trained"
    ]
    assert rows["trained"]["figures"]["latency_ms.torch.median"]["mean"] == pytest.approx(np.mean(latencies))


def test_the_report_says_what_was_scored(finished: Finished) -> None:
    written = write_report(finished.folder)
    assert "on the 20 images of the set 'test' of 2 folds together" in written["md"].read_text()


def test_a_recipe_by_itself_must_choose_a_fold(study_file: Path, finished: Finished) -> None:
    alone = read_recipe(finished.folder / "recipes/trained-seed0-fold1.yaml")
    assert alone.data.split is not None
    assert alone.data.split.fold == 1
    path = study_file.parent / "alone.yaml"
    path.write_text(
        'name: alone\ndata: {root: digits, split: {folds: 2}}\nmodel: {weights: "builtin:digits"}\nchain: []\n'
    )
    with pytest.raises(InputError, match=r"alone\.yaml:2: data\.split\.fold: expected which part is the test set, fro"):
        open_recipe_data(read_recipe(path))


def test_rows_of_other_folds_are_not_compared(study_file: Path) -> None:
    path = study_file.parent / "other.yaml"
    path.write_text(STUDY + "  - {name: one, chain: [], data: {root: digits, split: {folds: 2, fold: 1}}}\n")
    with pytest.raises(InputError, match=r"one cannot be compared with trained: data\.split is "):
        read_study(path)
