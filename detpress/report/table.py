"""The table of a run: every stage beside the model that it began with."""

from typing import Any

from rich import box
from rich.table import Table

from detpress.detector.form import Form
from detpress.measure.figures import heading, measured_on, ratio, shown


def run_table(results: dict[str, Any]) -> Table:
    """results: as results.json has them. Below each figure stands its ratio to the baseline's."""
    stages = results["stages"]
    runtimes = list(stages[0]["metrics"]["latency_ms"])
    batch = results["recipe"]["measure"]["batch"]
    latency = ""
    if runtimes:
        threads = stages[0]["metrics"]["latency_ms"][runtimes[0]]["threads"]
        latency = (
            f"Latency: median of the network alone, batch {batch}, {threads} threads. "
            + measured_on((f"{stage['index']} {stage['plugin']}", stage["metrics"]["processor"]) for stage in stages)
            + " "
        )
    reference = baseline(results)
    table = Table(
        title=f"{results['recipe']['name']}, seed {results['seed']}",
        caption=(
            f"mAP: {results['protocol']} on the image set '{results['recipe']['data']['test']}'. MACs: multiply-"
            "accumulates of the convolutions for one image. On disk: bytes of the bundle. "
            f"{latency}x: ratio to stage {reference['index']}. "
            "~: simulated, the runtime only imitates this form. "
            "!: the machine was busy meanwhile."
            f"{''.join(_beside_the_network(stage) for stage in stages)}"
        ),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("stage", no_wrap=True)
    for title in ("mAP", "parameters", "MACs", "on disk", *(f"{name}\nms" for name in runtimes)):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in stages:
        cells = _cells(stage["metrics"], reference["metrics"], runtimes)
        table.add_row(f"{stage['index']} {stage['plugin']}\n  {stage['form']}", *cells)
    return table


def baseline(results: dict[str, Any]) -> dict[str, Any]:
    """The stage that the others are compared with: the model that the recipe starts from, or, where that has random
    weights or heads, what the first step made of it."""
    stages: list[dict[str, Any]] = results["stages"]
    model = results["recipe"]["model"]
    whole = model["weights"] and not model.get("classes")
    return stages[0 if whole else min(1, len(stages) - 1)]


def _beside_the_network(stage: dict[str, Any]) -> str:
    """A line of what the columns have no room for; of energy only where it could be measured."""
    metrics = stage["metrics"]
    before, after = (metrics["processing_ms"][part]["median"] for part in ("before", "after"))
    line = f"\n{stage['index']} {stage['plugin']}: {before:.2f} ms an image before the network, {after:.2f} after it"
    if len(metrics["map_by_runtime"]) > 1:
        line += "; mAP " + ", ".join(f"{score:.4f} in {name}" for name, score in metrics["map_by_runtime"].items())
    if stage["form"] == Form.MASKED:
        line += f"; {metrics['nonzero_parameters']:,} of the parameters are not zero"
    for name, value in metrics.get("plugin", {}).items():
        line += f"; {heading(f'plugin.{name}')} {shown(f'plugin.{name}', value)}"
    energy = {name: found["joules"] for name, found in metrics["latency_ms"].items() if "joules" in found}
    if energy:
        line += "; joules a batch: " + ", ".join(f"{joules:.3f} in {name}" for name, joules in energy.items())
    remarks = "".join(f"\n{stage['index']} {stage['plugin']}: {remark}." for remark in stage.get("remarks", ()))
    return f"{line}.{remarks}"


def _cells(metrics: dict[str, Any], reference: dict[str, Any], runtimes: list[str]) -> list[str]:
    def cell(figure: str, text: str, value: float, other: float) -> str:
        mark = "~" if figure in metrics["simulated"] else ""
        return f"{mark}{text}\n{ratio(figure, value, other)}"

    disk, other_disk = metrics["storage_bytes"]["on_disk"], reference["storage_bytes"]["on_disk"]
    cells = [
        cell("map", f"{metrics['map']:.4f}", metrics["map"], reference["map"]),
        cell("parameters", f"{metrics['parameters']:,}", metrics["parameters"], reference["parameters"]),
        cell("macs", f"{metrics['macs'] / 1e6:,.1f} M", metrics["macs"], reference["macs"]),
        cell("on_disk", f"{disk / 1e6:,.2f} MB", disk, other_disk),
    ]
    for name in runtimes:
        median, other = (m["latency_ms"][name]["median"] for m in (metrics, reference))
        mark = "!" if metrics["latency_ms"][name].get("busy") else ""
        cells.append(cell(f"latency_ms.{name}", f"{mark}{median:,.2f}", median, other))
    return cells
