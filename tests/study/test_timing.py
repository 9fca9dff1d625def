"""Latency that is measured again: of the networks that rows end in, and of nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import begin, detpress
from small_study import Finished

SLOW = 1e6  # ms, which no network of a test takes


def medians(results: dict[str, Any]) -> dict[str, list[float]]:
    """By row, of each stage."""
    return {
        job["row"]: [stage["metrics"]["latency_ms"]["torch"]["median"] for stage in job["stages"]]
        for job in results["jobs"]
        if job["status"] == "done"
    }


def test_rows_have_new_latencies_that_stay_and_nothing_else_is_another(
    finished: Finished, study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.store.root, tmp_path / "cache/store")
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "cache"))
    for file in tmp_path.rglob("metrics.json"):
        metrics = json.loads(file.read_text())
        metrics["latency_ms"]["torch"] |= {"median": SLOW, "busy": True}
        file.write_text(json.dumps(metrics))
    command = ("compare", str(study_file), "--out", str(tmp_path / "out"), "--json", "--quiet")

    code, out, _ = begin(tmp_path / "again", detpress, *command, "--time-again").end()

    assert code == 1, "the recipe `broken` fails, and has no time"
    timed = medians(json.loads(out))
    assert {row: [median < SLOW for median in found] for row, found in timed.items()} == {
        "whole": [True],
        "pruned": [True, False, True],  # the first is where `whole` ends, and in the second none does
        "trained": [True, True],
    }
    later = json.loads(begin(tmp_path / "later", detpress, *command).end()[1])
    assert medians(later) == timed
    for row, before in zip(later["rows"], finished.results["rows"], strict=True):
        for figure, value in before["figures"].items():
            if not figure.startswith("latency_ms."):
                assert row["figures"][figure] == value, figure
