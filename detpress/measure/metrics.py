"""Everything that is measured of a model after a stage, in the same way for every stage."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from detpress.detector.encoding import SIXTEEN_BITS, Encoding
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.encodings.bundle import bundle_bytes
from detpress.measure.latency import measure_latency, measure_processing, processor
from detpress.measure.memory import peak_memory
from detpress.measure.scoring import score, scoring_runtime
from detpress.measure.section import Measure
from detpress.measure.size import macs, nonzero_parameters, parameter_count, storage_bytes
from detpress.runtimes.opening import open_runtime
from detpress.voc.devkit import Devkit
from detpress.voc.evaluate import Evaluation
from detpress.voc.results import write_results

PROCESSED = 50  # images on which reading and decoding are timed


def measure_model(
    model: Model,
    bundle: Path,
    devkit: Devkit,
    split: str,
    measure: Measure,
    results: Path,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """The `metrics` of results.json.

    bundle: where `model` was saved.
    results: folder in which the scored detections are written as `comp4_det_<split>_<class>.txt`.
    Latency is of the network alone; `processing_ms` is what reading an image and decoding boxes take beside it.
    An int8 model, which every runtime rounds in its own way, is scored in each runtime whose latency is shown:
    `map_by_runtime`; `map` and `ap` are those in `map_runtime`.
    """
    scored_in = scoring_runtime(model.form, list(measure.runtimes))
    scored = {scored_in, *(measure.runtimes if model.form is Form.INT8 else ())}
    latency: dict[str, Any] = {}
    precisions: dict[str, str] = {}
    evaluations: dict[str, Evaluation] = {}
    for name in dict.fromkeys([*measure.runtimes, scored_in]):
        runtime = open_runtime(name, model, measure.batch, measure.threads)
        precisions[name] = runtime.precision
        if name in measure.runtimes:
            progress(f"latency in {name}", 0, 1)
            latency[name] = measure_latency(runtime, model.architecture, measure.batch)
        if name in scored:
            evaluations[name], detections = score(runtime.run, model.architecture, devkit, split, measure, progress)
        if name == scored_in:
            write_results(results, split, detections)
            paths = [devkit.image_path(annotation) for annotation in devkit.image_set(split)[:PROCESSED]]
            processing = measure_processing(runtime, model.architecture, paths)
    return {
        "map": evaluations[scored_in].map,
        "map_runtime": scored_in,
        "map_by_runtime": {name: evaluation.map for name, evaluation in evaluations.items()},
        "ap": evaluations[scored_in].ap,
        "parameters": parameter_count(model.network),
        "nonzero_parameters": nonzero_parameters(model),
        "macs": macs(model.architecture),
        "storage_bytes": storage_bytes(model) | {"on_disk": bundle_bytes(bundle)},
        "latency_ms": latency,
        "processor": processor(),
        "processing_ms": processing,
        "peak_memory_bytes": peak_memory(bundle) if measure.memory else None,
        "simulated": simulated_figures(
            model.encodings.values(), list(latency), scored_in, list(evaluations), precisions
        ),
    }


def simulated_figures(
    encodings: Collection[Encoding],
    runtimes: Sequence[str],
    scored_in: str,
    evaluated: Sequence[str],
    precisions: Mapping[str, str],
) -> list[str]:
    """Names of the figures that only imitate what the layers stand for. Sizes are arithmetic, and never among them.

    runtimes: where latency was measured; scored_in: where mAP was; evaluated: all that `map_by_runtime` has;
    precisions: what each of them really computed in.
    """
    simulated = [f"latency_ms.{name}" for name in runtimes if not _is_physical(encodings, precisions[name])]
    if not _is_physical(encodings, precisions[scored_in]):
        simulated += ["map", "ap"]
    simulated += [f"map_by_runtime.{name}" for name in evaluated if not _is_physical(encodings, precisions[name])]
    if any(encoding.simulated for encoding in encodings):
        simulated.append("peak_memory_bytes")  # of float arithmetic
    return simulated


def _is_physical(encodings: Collection[Encoding], precision: str) -> bool:
    """Whether convolutions were computed in what they stand for, at least some: `fp32+int8` has heads in float.

    In which 16 bits is left to the runtime. What is simulated by an encoding in float, no runtime computes.
    """
    found = set(precision.split("+"))
    wanted = {encoding.precision for encoding in encodings}
    return (
        not any(encoding.simulated and encoding.precision == "fp32" for encoding in encodings)
        and wanted & {"int8", "binary"} <= found
        and (wanted.isdisjoint(SIXTEEN_BITS) or not found.isdisjoint(SIXTEEN_BITS))
    )
