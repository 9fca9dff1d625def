"""Latency and memory: what the figures hold for. Nothing is asserted of how fast anything is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detpress.detector.model import Model
from detpress.encodings.bundle import save_bundle
from detpress.errors import StageError
from detpress.measure.latency import FEWEST, measure_latency, processor_seconds, was_busy
from detpress.measure.memory import peak_memory
from detpress.runtimes.opening import open_runtime


def test_latency_says_what_was_measured(dense_model: Model) -> None:
    runtime = open_runtime("torch", dense_model, batch=2, threads=1)
    found = measure_latency(runtime, dense_model.architecture, batch=2)
    assert 0 < found["median"] <= found["p95"]
    assert found["repeats"] >= FEWEST
    assert (found["threads"], found["batch"], found["precision"]) == (1, 2, "fp32")
    assert found["spread"] == found["p95"] / found["median"]
    assert found["busy"] == was_busy(found["spread"], found["others"], threads=1, cores=os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("spread", "others", "busy"),
    [(1.1, 0.1, False), (1.1, None, False), (1.6, None, True), (1.1, 2.1, False), (1.1, 2.5, True)],
)
def test_a_machine_is_busy_where_runs_differ_or_others_need_the_threads_cores(
    spread: float, others: float | None, busy: bool
) -> None:
    assert was_busy(spread, others, threads=2, cores=4) == busy


def test_what_all_cores_have_worked_is_read_where_linux_counts_it(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 20 30 5000 7 1 2 3 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert processor_seconds(tmp_path / "stat") == 156 / os.sysconf("SC_CLK_TCK")
    assert processor_seconds(tmp_path / "absent") is None


HOLDING = """
import sys
from pathlib import Path

import numpy as np

from detpress.measure.memory import own_peak, peak_memory

held = np.ones(1 << 30, np.uint8)
print(held.nbytes, own_peak(), peak_memory(Path(sys.argv[1])))
"""


def test_peak_memory_is_of_a_process_of_its_own(dense_model: Model, tmp_path: Path) -> None:
    """On Linux a child's `ru_maxrss` would start from what its parent holds."""
    save_bundle(dense_model, tmp_path / "bundle")
    command = [sys.executable, "-P", "-c", HOLDING, str(tmp_path / "bundle")]
    held, own, of_the_bundle = map(int, subprocess.check_output(command, text=True).split())
    assert own > held
    assert 100 << 20 < of_the_bundle < held


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"peak memory could not be measured: .*not a bundle") as error:
        peak_memory(tmp_path)
    assert "\n" not in str(error.value)
