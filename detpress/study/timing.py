"""Latency of what a study's rows end in, measured anew, in turns.

Stages are made on different days, beside different work; what is compared in milliseconds should have had the same
machine. A machine gets slower and faster within minutes, too: so each network is measured in each of several rounds.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from detpress.detector.model import Model
from detpress.encodings.bundle import load_bundle
from detpress.files.folders import write_atomically
from detpress.measure.latency import measure_latency, processor
from detpress.measure.section import Measure
from detpress.run.store import Store
from detpress.runtimes.opening import open_runtime
from detpress.study.running import Outcome

ROUNDS = 3


def time_again(outcomes: Sequence[Outcome], store: Store, progress: Callable[[str, int, int], None]) -> None:
    """Replaces the latencies of last stages in `outcomes`, wherever these stages stand, and in the store.

    Of the rounds, that with the middle median counts. A network that several rows end in is measured once a round.
    Runs that failed have none. progress: is told how many measurements of how many were made.
    """
    ends = [(outcome.stages[-1], outcome.job.recipe.measure) for outcome in outcomes if outcome.failure is None]
    networks = {stage.detections.parent: (stage, measure) for stage, measure in ends}
    rounds: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for turn in range(ROUNDS):
        for number, (measurement, (stage, measure)) in enumerate(networks.items()):
            progress("latency again", turn * len(networks) + number, ROUNDS * len(networks))
            rounds[measurement].append(_latencies(load_bundle(stage.bundle), measure))
    for measurement, found in rounds.items():
        by_runtime = {name: sorted((one[name] for one in found), key=itemgetter("median")) for name in found[0]}
        latency = {name: ordered[ROUNDS // 2] for name, ordered in by_runtime.items()}
        again = {"latency_ms": latency, "processor": processor()}
        with store.lock(f"{networks[measurement][0].key}.measure", lambda: None):
            file = measurement / "metrics.json"
            write_atomically(file, json.dumps(json.loads(file.read_text()) | again, indent=1))
        for other in (stage for outcome in outcomes for stage in outcome.stages):
            if other.detections.parent == measurement:
                other.metrics.update(again)
    progress("latency again", ROUNDS * len(networks), ROUNDS * len(networks))


def _latencies(model: Model, measure: Measure) -> dict[str, Any]:
    """What `measure_latency` finds in each of the recipe's runtimes."""
    found: dict[str, Any] = {}
    for name in measure.runtimes:  # one after the other: threads of an open runtime may wait busily
        runtime = open_runtime(name, model, measure.batch, measure.threads)
        found[name] = measure_latency(runtime, model.architecture, measure.batch)
    return found
