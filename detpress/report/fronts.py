"""Pareto fronts as pictures: one SVG for each cost, which holds all that it shows."""

import re
from pathlib import Path

from detpress.errors import InputError, shortened
from detpress.report.charts import HEIGHT, WIDTH, pareto_charts
from detpress.report.drawn_pictures import assets, open_templates
from detpress.report.source import named_in_errors, read_study

COLUMNS, LINE = 2, 16.0  # of the names below a chart; the height of one, in the SVG's coordinates


def write_fronts(study: Path, folder: Path) -> list[Path]:
    """front-COST.svg in the folder, for each cost of a study.json: mAP with its interval against the cost.

    Raises InputError where `study` is no such file, or has no row to draw.
    """
    with named_in_errors(study):
        charts = pareto_charts(read_study(study)["rows"])
    if not charts:
        raise InputError(f"{study}: no front to draw: no row ended")
    for cost in charts:
        if not re.fullmatch(r"[\w.-]+", cost):  # it becomes the name of a file
            raise InputError(f"{study}: not what detpress writes: a front of {shortened(cost)}")
    template = open_templates().get_template("front.svg")
    written = []
    for cost, chart in charts.items():
        down = -(-len(chart.points) // COLUMNS)
        names = [
            (WIDTH / COLUMNS * (i // down) + LINE, HEIGHT + LINE * (i % down + 1), point)
            for i, point in enumerate(chart.points)
        ]
        height = HEIGHT + LINE * (down + 1)
        text = template.render(chart=chart, names=names, height=height, css=assets("colours.css", "chart.css"))
        written.append(folder / f"front-{cost}.svg")
        written[-1].write_text(text, encoding="utf-8")
    return written
