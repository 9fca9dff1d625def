"""What is said of a stage's figures."""

from pathlib import Path
from typing import Any

import pytest

from detpress.detector.form import Form
from detpress.run.remarks import remarks
from detpress.run.stage import Stage


def stage(folder: Path, index: int, plugin: str, form: Form, score: float, **latency: Any) -> Stage:
    metrics = {"map": score, "latency_ms": {"torch": {"median": 2.0} | latency} if latency else {}}
    return Stage(index, plugin, form, "key", folder, False, 1.0, None, [], metrics, folder)


@pytest.mark.parametrize(
    ("plugin", "form", "before", "after", "said"),
    [
        ("nni.l1norm", Form.MASKED, 0.8, 0.0, "mAP 0.0000 after 0.8000: usual for a pruned network before training"),
        ("nni.speedup", Form.DENSE, 0.0, 0.0, "mAP 0.0000: usual for a pruned network before training"),
        ("train.batchnorm", Form.DENSE, 0.0, 0.0, "mAP 0.0000: as before this stage, which trained nothing"),
        ("deep_compression.encode", Form.PACKED, 0.0, 0.0, "mAP 0.0000: as before this stage, which trained nothing"),
        ("nni.bnn", Form.SIMULATED, 0.8, 0.39, "mAP 0.3900 after 0.8000: usual for a network of few bits before train"),
        ("train.finetune", Form.DENSE, 0.8, 0.3, "mAP 0.3000 after 0.8000: unusual: look at stage.log"),
    ],
)
def test_a_map_that_fell_below_half_is_said_with_what_is_usual(
    tmp_path: Path, plugin: str, form: Form, before: float, after: float, said: str
) -> None:
    chain = [stage(tmp_path, 0, "model", Form.DENSE, before), stage(tmp_path, 1, plugin, form, after)]
    [found] = remarks(chain)
    assert found.startswith(said)


def test_nothing_is_said_of_half_and_more(tmp_path: Path) -> None:
    chain = [stage(tmp_path, 0, "model", Form.DENSE, 0.8), stage(tmp_path, 1, "nni.l1norm", Form.MASKED, 0.4)]
    assert remarks(chain) == []


def test_a_loss_after_training_is_unusual_for_a_pruner_too(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    chain = [stage(tmp_path, 0, "model", Form.DENSE, 0.8), stage(tmp_path, 1, "nni.agp", Form.MASKED, 0.1)]
    assert "unusual" in remarks(chain)[0]


def test_latency_taken_while_the_machine_was_busy_is_said(tmp_path: Path) -> None:
    chain = [stage(tmp_path, 0, "model", Form.DENSE, 0.8, busy=True, spread=3.14, others=1.52)]
    assert remarks(chain) == [
        "latency in torch was taken while the machine was busy: p95 is 3.1 times the median, others used 1.5 cores"
    ]
    assert remarks([stage(tmp_path, 0, "model", Form.DENSE, 0.8, busy=False, spread=1.1, others=0.1)]) == []


def test_a_log_of_fifty_megabytes_and_more_is_said(tmp_path: Path) -> None:
    chain = [stage(tmp_path, 0, "model", Form.DENSE, 0.8)]
    with (tmp_path / "stage.log").open("w") as log:
        log.truncate(49_000_000)
    assert remarks(chain) == []
    with (tmp_path / "stage.log").open("a") as log:
        log.truncate(62_000_000)
    assert remarks(chain) == ["stage.log takes 62 MB"]
