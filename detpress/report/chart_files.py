"""The charts of a study.json as pictures: SVG files, each of which holds all that it shows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detpress.errors import InputError, shortened
from detpress.report.charts import HEIGHT, WIDTH, Chart, ScoredStage, pareto_charts, recovery_chart
from detpress.report.drawn_pictures import assets, open_templates
from detpress.report.source import named_in_errors, read_study

COLUMNS, LINE = 2, 16.0  # of the names below a chart; the height of one, in the SVG's coordinates


def write_charts(study: Path, folder: Path) -> list[Path]:
    """front-COST.svg in the folder, mAP against each cost, and, where trainings were scored, recovery.svg.

    Raises InputError where `study` is no study.json, or has nothing to draw.
    """
    with named_in_errors(study):
        charts = dict(_charts(read_study(study)))
    if not charts:
        raise InputError(f"{study}: nothing to draw: no row ended")
    for name in charts:
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"{study}: not what detpress writes: a chart of {shortened(name)}")
    template = open_templates().get_template("chart.svg")
    css = assets("colours.css", "chart.css")
    written = []
    for name, chart in charts.items():
        named = [*chart.points, *chart.lines]
        down = -(-len(named) // COLUMNS)
        names = [
            (WIDTH / COLUMNS * (i // down) + LINE, HEIGHT + LINE * (i % down + 1), one) for i, one in enumerate(named)
        ]
        text = template.render(chart=chart, names=names, height=HEIGHT + LINE * (down + 1), css=css)
        written.append(folder / f"{name}.svg")
        written[-1].write_text(text, encoding="utf-8")
    return written


def _charts(results: dict[str, Any]) -> Iterator[tuple[str, Chart]]:
    """By the name of its file."""
    for cost, chart in pareto_charts(results["rows"]).items():
        yield f"front-{cost}", chart
    rows: dict[str, list[ScoredStage]] = {}
    for job in results.get("jobs", []):
        if job["status"] == "done":
            rows.setdefault(job["row"], [(stage["key"], stage.get("validation", [])) for stage in job["stages"]])
    recovery = recovery_chart([(row["name"], rows.get(row["name"], [])) for row in results["rows"]])
    if recovery:
        yield "recovery", recovery
