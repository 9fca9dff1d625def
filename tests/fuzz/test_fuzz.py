"""Whatever is spoilt in a file or an argument, reading it ends in success or in one line, in bounded time.

`benchmarks/fuzz.py` tries the same targets for longer.
"""

import time
from pathlib import Path
from typing import Any

import fuzz_targets
import pytest
from fuzz_targets import Target, count_outcomes, targets

from detpress.errors import InputError

NAMES = [
    "recipe", "--set", "model.json", "Darknet cfg", "annotation", "image set", "results file", "study.json",
    "COCO JSON", "YOLO", "checkpoint",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def by_name(folder: Path) -> dict[str, Target]:
    return {target.name: target for target in targets(folder)}


@pytest.mark.parametrize("name", NAMES)
def test_a_mutation_is_read_or_refused(by_name: dict[str, Target], folder: Path, name: str) -> None:
    outcomes = count_outcomes(by_name[name], folder, seed=0, count=60)
    assert outcomes["faults"] == {}
    assert outcomes["accepted"] + outcomes["refused"] == 60
    assert outcomes["refused"] > 10


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_spoilt_is_read(by_name: dict[str, Target], folder: Path, name: str) -> None:
    by_name[name].read(by_name[name].data, folder)


def test_a_reader_that_does_not_end_is_a_fault_whatever_it_takes_for_a_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(data: Any, folder: Path) -> None:
        try:
            time.sleep(60)
        except Exception as error:
            raise InputError("cannot be read") from error

    monkeypatch.setattr(fuzz_targets, "LONGEST", 1)
    outcomes = count_outcomes(Target("sleeper", {"a": 1}, sleep), folder, seed=0, count=1)
    assert outcomes["faults"] == {0: "StillAtWorkError: still at work after 1 s"}
    assert outcomes["accepted"] + outcomes["refused"] == 0
