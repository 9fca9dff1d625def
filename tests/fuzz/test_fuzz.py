"""Whatever is spoilt in a file or an argument, reading it ends in success or in one line, in bounded time.

`benchmarks/fuzz.py` tries the same targets for longer.
"""

from pathlib import Path

import pytest
from fuzz_targets import Target, count_outcomes, targets

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
