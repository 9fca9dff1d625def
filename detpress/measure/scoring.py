"""From a network's raw maps to its mAP: the one way from predictions to the evaluator."""

from detpress.detector.architecture import Architecture
from detpress.detector.boxes import Suppression
from detpress.detector.form import Form
from detpress.detector.predict import Run, predict_image_set
from detpress.measure.section import Measure
from detpress.progress import Progress
from detpress.voc.devkit import Devkit
from detpress.voc.evaluate import Evaluation, evaluate
from detpress.voc.protocol import protocol_name
from detpress.voc.results import ClassDetections

INTEGER_RUNTIMES = ("openvino", "onnxruntime", "torch-compile", "openvino-bf16")  # execute an int8 model in integers


def scoring_runtime(form: Form, runtimes: list[str]) -> str:
    """Where mAP is measured: a model in integers in the first of the recipe's runtimes that computes in integers."""
    if form is Form.INT8:
        return next((name for name in runtimes if name in INTEGER_RUNTIMES), "torch")
    return "torch"


def protocol_id(measure: Measure) -> str:
    """Names all that decides an mAP: `voc07@0.5+1px/score>0.005/nms0.45/max100`."""
    return f"{protocol_name(measure.protocol, measure.iou)}/{suppression(measure)}"


def suppression(measure: Measure) -> Suppression:
    """Which boxes are detections."""
    if measure.protocol == "salvi2020":  # as in the program that goes with that paper
        return Suppression(score=0.001, nms=0.6, most=measure.max_detections, merged=True)
    return Suppression(most=measure.max_detections)


def score(
    run: Run,
    architecture: Architecture,
    devkit: Devkit,
    split: str,
    measure: Measure,
    progress: Progress | None = None,
) -> tuple[Evaluation, dict[str, ClassDetections]]:
    """What `run` finds in the images of the set `split`, scored as `measure` says; and the detections by class."""
    detections = predict_image_set(run, architecture, devkit, split, progress, suppression(measure))
    return evaluate(devkit.image_set(split), detections, measure.protocol, measure.iou), detections
