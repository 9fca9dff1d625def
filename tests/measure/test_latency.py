"""Latency and memory: what the figures hold for. Nothing is asserted of how fast anything is."""

from pathlib import Path

import pytest

from detpress.bundle import save_bundle
from detpress.errors import StageError
from detpress.measure.latency import FEWEST, measure_latency
from detpress.measure.memory import own_peak, peak_memory
from detpress.measure.runtime import open_runtime
from detpress.model import Model


def test_latency_says_what_was_measured(dense_model: Model) -> None:
    runtime = open_runtime("torch", dense_model, batch=2, threads=1)
    found = measure_latency(runtime, dense_model.architecture, batch=2)
    assert 0 < found["median"] <= found["p95"]
    assert found["repeats"] >= FEWEST
    assert (found["threads"], found["batch"], found["precision"]) == (1, 2, "fp32")


def test_peak_memory_is_of_a_process_of_its_own(dense_model: Model, tmp_path: Path) -> None:
    """On Linux a child's `ru_maxrss` would start from what its parent holds."""
    save_bundle(dense_model, tmp_path / "bundle")
    held = bytearray(b"x" * (2 << 30))
    assert own_peak() > len(held)
    assert 100 << 20 < peak_memory(tmp_path / "bundle") < len(held)


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"peak memory could not be measured: .*not a bundle") as error:
        peak_memory(tmp_path)
    assert "\n" not in str(error.value)
