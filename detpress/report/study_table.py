"""The table of a study: every recipe beside the baseline, over its seeds."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from detpress.measure.figures import heading, mark, measured_on, ratio, shown
from detpress.report.summary import baseline_figures, scored_on


def study_table(results: dict[str, Any], rows: Sequence[dict[str, Any]], figures: Sequence[str]) -> Table:
    """results: as study.json has them; rows: those of its rows to show, with the figures beside mAP."""
    reference = baseline_figures(results)
    latency = ""
    if any(figure.startswith("latency_ms.") for figure in figures):
        latency = " " + measured_on((row["name"], processor) for row in rows for processor in row["processors"])
    table = Table(
        title=f"{results['study']}, seeds {', '.join(map(str, results['seeds']))}",
        caption=(
            f"Means over the seeds. mAP: {results['protocol']} on {scored_on(results)}; "
            f"±: standard deviation over the seeds; in brackets the 95 % interval, by "
            f"{results['resamples']:,} bootstrap resamples of the images. Difference: from {results['baseline']}, on "
            "the same resamples. x: ratio to its figure. ~: simulated, the runtime only imitates the form. "
            "!: the machine was busy meanwhile."
            f"{latency}"
        ),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    longest = max((len(row["name"]) for row in rows), default=0)
    table.add_column("recipe", min_width=min(longest, 20), overflow="fold")
    for name in ("mAP", "difference", *(heading(figure) for figure in figures)):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    for row in rows:
        name = row["name"] + "".join(f"\n  seed {seed} failed" for seed in row["failed"])
        if row["figures"]:
            cells = [_figure(row, reference, figure) for figure in figures]
            table.add_row(name, map_cell(row), difference_cell(row), *cells)
        else:
            table.add_row(name, *[""] * (2 + len(figures)))
    return table


def map_cell(row: dict[str, Any]) -> str:
    found, bounds = row["figures"]["map"], row["map_interval"]
    deviation = f" ±{found['std']:.4f}" if len(row["seeds"]) > 1 else ""
    mark = "~" if "map" in row["simulated"] else ""
    return f"{mark}{found['mean']:.4f}{deviation}\n[{bounds['low']:.4f}, {bounds['high']:.4f}]"


def difference_cell(row: dict[str, Any]) -> str:
    found = row["difference"]
    return f"{found['mean']:+.4f}\n{found['verdict']}" if found else ""


def _figure(row: dict[str, Any], reference: dict[str, Any], figure: str) -> str:
    found = row["figures"].get(figure)
    if found is None:
        return "-"
    multiple = ratio(figure, found["mean"], reference[figure]["mean"]) if figure in reference else ""
    return f"{mark(figure, row)}{shown(figure, found['mean'])}\n{multiple}"
