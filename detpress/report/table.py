"""The table of a run: every stage beside the model that it began with."""

from typing import Any

from rich.table import Table


def run_table(results: dict[str, Any]) -> Table:
    """results: as results.json has them. Each figure is followed by its ratio to the first stage's."""
    stages = results["stages"]
    runtimes = list(stages[0]["metrics"]["latency_ms"])
    batch = results["recipe"]["measure"]["batch"]
    threads = next(iter(stages[0]["metrics"]["latency_ms"].values()))["threads"] if runtimes else None
    table = Table(
        title=f"{results['recipe']['name']}, seed {results['seed']}",
        caption=(
            f"mAP: {results['protocol']} on the image set '{results['recipe']['data']['test']}'. MACs: multiply-"
            "accumulates of the convolutions for one image. On disk: bytes of the bundle. Latency: median of the "
            f"network alone, batch {batch}, {threads} threads. x: ratio to stage 0. "
            "~: simulated, the runtime only imitates this form."
        ),
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("stage", no_wrap=True)
    table.add_column("form")
    for heading in ("mAP", "parameters", "MACs", "on disk", *(f"{name} ms" for name in runtimes)):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in stages:
        table.add_row(f"{stage['index']} {stage['plugin']}", stage["form"], *_cells(stage["metrics"], stages, runtimes))
    return table


def _cells(metrics: dict[str, Any], stages: list[dict[str, Any]], runtimes: list[str]) -> list[str]:
    first = stages[0]["metrics"]
    cells = [
        _beside("map", f"{metrics['map']:.4f}", metrics["map"], first["map"], metrics),
        _beside("parameters", f"{metrics['parameters']:,}", metrics["parameters"], first["parameters"], metrics),
        _beside("macs", f"{metrics['macs'] / 1e6:,.1f} M", metrics["macs"], first["macs"], metrics),
    ]
    disk, first_disk = metrics["storage_bytes"]["on_disk"], first["storage_bytes"]["on_disk"]
    cells.append(_beside("on_disk", f"{disk / 1e6:,.2f} MB", disk, first_disk, metrics))
    for name in runtimes:
        median, first_median = (m["latency_ms"][name]["median"] for m in (metrics, first))
        cells.append(_beside(f"latency_ms.{name}", f"{median:,.2f}", median, first_median, metrics))
    return cells


def _beside(figure: str, text: str, value: float, reference: float, metrics: dict[str, Any]) -> str:
    mark = "~" if figure in metrics["simulated"] else ""
    ratio = f" x{value / reference:.2f}" if reference else ""
    return f"{mark}{text}{ratio}"
