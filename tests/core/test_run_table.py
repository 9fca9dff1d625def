"""What stands below the table of a run."""

from typing import Any

from rich.console import Console

from detpress.report.table import run_table
from detpress.report.whole import WholeFigures


def stage(index: int, **more: Any) -> dict[str, Any]:
    metrics = {
        "map": 0.5,
        "map_by_runtime": {"torch": 0.5},
        "parameters": 10,
        "macs": 20,
        "storage_bytes": {"on_disk": 30},
        "latency_ms": {"openvino": {"median": 2.0, "threads": 2}},
        "processor": "Xeon, 2 cores",
        "processing_ms": {"before": {"median": 1.25}, "after": {"median": 0.75}},
        "simulated": [],
    }
    return {"index": index, "plugin": "model", "form": "dense", "metrics": metrics | more}


def shown(*stages: dict[str, Any]) -> str:
    recipe = {
        "name": "r",
        "data": {"test": "test"},
        "measure": {"batch": 1},
        "model": {"weights": "builtin:digits"},
    }
    console = Console(width=160)
    with console.capture() as printed:
        console.print(run_table({"recipe": recipe, "seed": 0, "protocol": "voc07", "stages": list(stages)}))
    return " ".join(printed.get().split())


def test_what_lies_around_the_network_is_reported_apart_from_its_latency() -> None:
    text = shown(stage(0))
    assert "0 model: 1.25 ms an image before the network, 0.75 after it." in text
    assert "joules" not in text
    assert "mAP 0.5" not in text


def test_map_by_runtime_and_energy_are_shown_where_they_were_measured() -> None:
    latency = {"openvino": {"median": 2.0, "threads": 2, "joules": 0.125}}
    text = shown(stage(0), stage(1, map_by_runtime={"torch": 0.5, "openvino": 0.49}, latency_ms=latency))
    assert "mAP 0.5000 in torch, 0.4900 in openvino; joules a batch: 0.125 in openvino." in text


def test_what_a_mask_leaves_is_told_beside_the_count_that_it_does_not_change() -> None:
    text = shown(stage(0), stage(1, nonzero_parameters=6331, plugin={"kept_weights": 6331115}) | {"form": "masked"})
    assert "; 6,331 of the parameters are not zero; kept weights 6,331,115." in text
    assert text.count("not zero") == 1


def test_latency_of_a_busy_machine_is_marked_and_remarks_stand_below() -> None:
    latency = {"openvino": {"median": 2.0, "threads": 2, "busy": True}}
    text = shown(stage(0), stage(1, latency_ms=latency) | {"remarks": ["mAP 0.0000: unusual"]})
    assert "!2.00" in text
    assert "1 model: mAP 0.0000: unusual." in text


def test_stages_measured_on_different_processors_are_said_to_be() -> None:
    assert "Latency was measured on Xeon, 2 cores. x: ratio" in shown(stage(0), stage(1))
    text = shown(stage(0), stage(1, processor="EPYC, 8 cores"))
    assert "cannot be compared. Xeon, 2 cores: 0 model; EPYC, 8 cores: 1 model. x: ratio" in text


def test_eighty_columns_keep_every_figure_of_four_runtimes_whole() -> None:
    runtimes = ("torch", "openvino", "onnxruntime", "torch-compile")
    latency = {name: {"median": 12345.67, "threads": 2} for name in runtimes}
    large = {"parameters": 61626049, "macs": 32.8e9, "storage_bytes": {"on_disk": 246.5e6}, "latency_ms": latency}
    recipe = {"name": "r", "data": {"test": "test"}, "measure": {"batch": 1}, "model": {"weights": "builtin:digits"}}
    stages = [stage(0, **large), stage(1, **large) | {"plugin": "inc.weight_only_of_a_long_name"}]
    console = Console(width=80)
    with console.capture() as printed:
        console.print(WholeFigures(run_table({"recipe": recipe, "seed": 0, "protocol": "voc07", "stages": stages})))
    text = printed.get()
    assert "…" not in text
    assert text.count("12,345.67") == 8
    for figure in ("0.5000", "61,626,049", "32,800.0 M", "246.50 MB"):
        assert text.count(figure) == 2
    assert text.count("Latency: median") == 1
    assert max(map(len, text.splitlines())) <= 80
