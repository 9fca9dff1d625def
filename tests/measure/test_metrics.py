"""Which figures of a stage are marked as simulated."""

from detpress.measure.metrics import scoring_runtime, simulated_figures
from detpress.plugin import Form

RUNTIMES = ["torch", "openvino"]


def test_all_that_a_float_model_gives_is_physical() -> None:
    for form in (Form.DENSE, Form.MASKED):
        assert simulated_figures(form, RUNTIMES, scoring_runtime(form, RUNTIMES)) == []


def test_a_fake_quantized_model_has_neither_the_latency_nor_the_memory_of_its_bits() -> None:
    marked = simulated_figures(Form.SIMULATED, RUNTIMES, scoring_runtime(Form.SIMULATED, RUNTIMES))
    assert marked == ["latency_ms.torch", "latency_ms.openvino", "map", "ap", "peak_memory_bytes"]


def test_an_int8_model_is_physical_where_a_runtime_computes_in_integers() -> None:
    assert simulated_figures(Form.INT8, RUNTIMES, scoring_runtime(Form.INT8, RUNTIMES)) == ["latency_ms.torch"]
    assert simulated_figures(Form.INT8, ["torch"], scoring_runtime(Form.INT8, ["torch"])) == [
        "latency_ms.torch", "map", "ap",
    ]  # fmt: skip
