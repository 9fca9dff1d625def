"""Latency of what a study's rows end in, measured anew, one network after the other.

Stages are made on different days, beside different work; what is compared in milliseconds should have had the same
machine.
"""

import json
from collections.abc import Callable, Sequence

from detpress.encodings.bundle import load_bundle
from detpress.files.folders import write_atomically
from detpress.measure.latency import measure_latency, processor
from detpress.run.store import Store
from detpress.runtimes.opening import open_runtime
from detpress.study.running import Outcome


def time_again(outcomes: Sequence[Outcome], store: Store, progress: Callable[[str, int, int], None]) -> None:
    """Replaces the latencies of last stages in `outcomes`, wherever these stages stand, and in the store.

    A network that several rows end in is measured once. Runs that failed have none. progress: is told how many networks
    of how many were measured.
    """
    ends = [(outcome.stages[-1], outcome.job.recipe.measure) for outcome in outcomes if outcome.failure is None]
    networks = {stage.detections.parent: (stage, measure) for stage, measure in ends}
    for number, (measurement, (stage, measure)) in enumerate(networks.items()):
        progress("latency again", number, len(networks))
        model = load_bundle(stage.bundle)
        latency = {}
        for name in measure.runtimes:
            runtime = open_runtime(name, model, measure.batch, measure.threads)
            latency[name] = measure_latency(runtime, model.architecture, measure.batch)
        again = {"latency_ms": latency, "processor": processor()}
        with store.lock(f"{stage.key}.measure", lambda: None):
            file = measurement / "metrics.json"
            write_atomically(file, json.dumps(json.loads(file.read_text()) | again, indent=1))
        for other in (stage for outcome in outcomes for stage in outcome.stages):
            if other.detections.parent == measurement:
                other.metrics.update(again)
    progress("latency again", len(networks), len(networks))
