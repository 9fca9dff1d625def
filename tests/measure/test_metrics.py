"""Which figures of a stage are marked as simulated."""

from detpress.detector.form import Form
from detpress.measure.metrics import scoring_runtime, simulated_figures


def marked(form: Form, precisions: dict[str, str]) -> list[str]:
    runtimes = list(precisions)
    return simulated_figures(form, runtimes, scoring_runtime(form, runtimes), precisions)


def test_all_that_a_float_model_gives_is_physical() -> None:
    for form in (Form.DENSE, Form.MASKED):
        assert marked(form, {"torch": "fp32", "openvino": "fp32"}) == []


def test_a_fake_quantized_model_has_neither_the_latency_nor_the_memory_of_its_bits() -> None:
    found = marked(Form.SIMULATED, {"torch": "fp32", "openvino": "fp32"})
    assert found == ["latency_ms.torch", "latency_ms.openvino", "map", "ap", "peak_memory_bytes"]


def test_an_int8_model_is_physical_where_a_runtime_computes_in_integers() -> None:
    assert marked(Form.INT8, {"torch": "fp32", "openvino": "int8"}) == ["latency_ms.torch"]
    assert marked(Form.INT8, {"torch": "fp32", "onnxruntime": "fp32+int8"}) == ["latency_ms.torch"], "heads in float"
    assert marked(Form.INT8, {"torch": "fp32"}) == ["latency_ms.torch", "map", "ap"]
    assert marked(Form.INT8, {"openvino": "fp32"}) == ["latency_ms.openvino", "map", "ap"], "what it says counts"


def test_a_model_in_16_bits_is_physical_where_a_runtime_computes_in_them() -> None:
    found = marked(Form.HALF, {"torch": "bf16+fp32", "onnxruntime": "fp32", "openvino": "bf16"})
    assert found == ["latency_ms.onnxruntime"]
