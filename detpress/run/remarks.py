"""What a person should know of a stage's figures before they are believed, in words."""

from collections.abc import Sequence

from detpress.detector.form import Form
from detpress.run.stage import Stage

LARGE_LOG = 50_000_000  # bytes; a training of days writes less
ROUNDED = (Form.INT8, Form.HALF, Form.PACKED, Form.SIMULATED)


def remarks(stages: Sequence[Stage]) -> list[str]:
    """Of the last of a chain's stages; the first is the model that the chain began with."""
    return [*_of_map(stages), *_of_latency(stages[-1]), *_of_log(stages[-1])]


def _of_map(stages: Sequence[Stage]) -> list[str]:
    """A mAP that is nothing, or below half of the one before."""
    stage = stages[-1]
    found = stage.metrics["map"]
    before = stages[-2].metrics["map"] if len(stages) > 1 else 0.0
    if found >= 0.00005 and found >= before / 2:
        return []
    what = f"mAP {found:.4f}" + (f" after {before:.4f}" if before else "")
    return [f"{what}: {_judgement(stages)}"]


def _judgement(stages: Sequence[Stage]) -> str:
    stage = stages[-1]
    if len(stages) == 1:
        return "usual for random weights and heads made anew; of a trained model, look at its classes and the data set"
    if not (stage.folder / "training").is_dir():  # it trained nothing
        if stage.form is Form.MASKED or stage.plugin == "nni.speedup":
            return "usual for a pruned network before training"
        if stages[-2].metrics["map"] <= stage.metrics["map"]:
            return "as before this stage, which trained nothing"
        if stage.form in ROUNDED:
            return "usual for a network of few bits before training; with 8 bits, look at stage.log"
    return "unusual: look at stage.log, at the classes, and at the boxes in the pictures"


def _of_latency(stage: Stage) -> list[str]:
    said = []
    for runtime, found in stage.metrics["latency_ms"].items():
        if found.get("busy"):
            others = "" if found["others"] is None else f", others used {found['others']:.1f} cores"
            said.append(
                f"latency in {runtime} was taken while the machine was busy: p95 is {found['spread']:.1f} times the "
                f"median{others}"
            )
    return said


def _of_log(stage: Stage) -> list[str]:
    """A log that the store and the run's folder both hold, and that nobody would look for."""
    log = stage.folder / "stage.log"
    size = log.stat().st_size if log.is_file() else 0
    return [f"stage.log takes {size / 1e6:.0f} MB"] if size >= LARGE_LOG else []
