"""Which figures of a stage are marked as simulated."""

import pytest

from detpress.detector.encoding import Encoding
from detpress.detector.float32 import Float32, FoldedFloat32
from detpress.detector.form import Form
from detpress.detector.input_scale import InputScale
from detpress.encodings.binary import BinaryInputs
from detpress.encodings.dynamic_int8 import DynamicInt8
from detpress.encodings.half import Half
from detpress.encodings.int8 import Int8
from detpress.encodings.simulated import Simulated
from detpress.measure.metrics import simulated_figures
from detpress.measure.scoring import scoring_runtime

ENCODINGS: dict[Form, Encoding] = {
    Form.DENSE: Float32(),
    Form.SIMULATED: Simulated(8, None),
    Form.INT8: Int8(InputScale(0.1, 0)),
    Form.HALF: Half("bf16"),
}


def marked(form: Form, precisions: dict[str, str]) -> list[str]:
    runtimes = list(precisions)
    encodings = [FoldedFloat32(), ENCODINGS[form]]
    scored_in = scoring_runtime(form, runtimes)
    evaluated = runtimes if form is Form.INT8 else [scored_in]
    return simulated_figures(encodings, runtimes, scored_in, evaluated, precisions)


def test_all_that_a_float_model_gives_is_physical() -> None:
    assert marked(Form.DENSE, {"torch": "fp32", "openvino": "fp32"}) == []


def test_a_fake_quantized_model_has_neither_the_latency_nor_the_memory_of_its_bits() -> None:
    found = marked(Form.SIMULATED, {"torch": "fp32", "openvino": "fp32"})
    maps = ["map", "ap", "map_by_runtime.torch"]
    assert found == ["latency_ms.torch", "latency_ms.openvino", *maps, "peak_memory_bytes"]


@pytest.mark.parametrize(
    ("encoding", "runtime", "precision"),
    [(BinaryInputs(False), "openvino", "binary+fp32"), (DynamicInt8(), "onnxruntime", "fp32+int8")],
)
def test_what_pytorch_simulates_is_physical_where_a_runtime_computes_it(
    encoding: Encoding, runtime: str, precision: str
) -> None:
    precisions = {"torch": "fp32", runtime: precision}
    found = simulated_figures([Float32(), encoding], list(precisions), "torch", ["torch"], precisions)
    assert found == ["latency_ms.torch", "map", "ap", "map_by_runtime.torch", "peak_memory_bytes"]
    of_both = simulated_figures([Simulated(8, None), encoding], [runtime], "torch", ["torch"], precisions)
    assert f"latency_ms.{runtime}" in of_both, "another layer's bits are computed in float"


def test_an_int8_model_is_physical_where_a_runtime_computes_in_integers() -> None:
    of_torch = ["latency_ms.torch", "map_by_runtime.torch"]
    assert marked(Form.INT8, {"torch": "fp32", "openvino": "int8"}) == of_torch
    assert marked(Form.INT8, {"torch": "fp32", "onnxruntime": "fp32+int8"}) == of_torch, "heads in float"
    assert marked(Form.INT8, {"torch": "fp32"}) == ["latency_ms.torch", "map", "ap", "map_by_runtime.torch"]
    of_openvino = ["latency_ms.openvino", "map", "ap", "map_by_runtime.openvino"]
    assert marked(Form.INT8, {"openvino": "fp32"}) == of_openvino, "what it says counts"


def test_a_model_in_16_bits_is_physical_where_a_runtime_computes_in_them() -> None:
    found = marked(Form.HALF, {"torch": "bf16+fp32", "onnxruntime": "fp32", "openvino": "bf16"})
    assert found == ["latency_ms.onnxruntime"]
