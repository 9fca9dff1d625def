"""Figures by name: what they are called and counted in for people."""

import pytest

from detpress.errors import InputError
from detpress.measure.figures import check_figure, heading, higher_is_better, measured_on, shown


@pytest.mark.parametrize(
    ("name", "value", "called", "text"),
    [
        ("latency_ms.openvino.median", 1.25, "openvino median", "1.25 ms"),
        ("latency_ms.openvino.joules", 0.125, "openvino joules", "0.125 J"),
        ("processing_ms.before.median", 0.5, "before the network median", "0.50 ms"),
        ("map_by_runtime.onnxruntime", 0.9, "mAP in onnxruntime", "0.9000"),
        ("plugin.code_bytes", 188366.0, "code bytes", "188,366 B"),
        ("plugin.bits_per_weight", 4.96, "bits per weight", "4.96"),
    ],
)
def test_a_study_may_show_it_with_its_unit(name: str, value: float, called: str, text: str) -> None:
    check_figure(name, "study")
    assert (heading(name), shown(name, value)) == (called, text)


def test_more_map_is_better_in_every_runtime_and_more_time_is_not() -> None:
    assert higher_is_better("map_by_runtime.openvino")
    assert not higher_is_better("processing_ms.after.median")


def test_a_figure_that_no_model_has_is_refused() -> None:
    with pytest.raises(InputError, match="no figure 'latency'"):
        check_figure("latency", "study")


def test_latencies_of_different_processors_are_not_passed_off_as_comparable() -> None:
    assert measured_on([]) == ""
    assert measured_on([("a", "Xeon, 2 cores"), ("b", "Xeon, 2 cores")]) == "Latency was measured on Xeon, 2 cores."
    assert measured_on([("a", "Xeon, 2 cores"), ("b", "EPYC, 8 cores"), ("c", "Xeon, 2 cores")]) == (
        "Latencies were measured on different processors and cannot be compared. Xeon, 2 cores: a, c; EPYC, 8 cores: b."
    )
