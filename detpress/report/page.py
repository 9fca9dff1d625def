"""Writes a report: one HTML page that opens from a file and asks no host for anything, a Markdown text, a table.

The page is drawn by a template with autoescape: names of recipes, classes and files are text, whatever they hold. A
content security policy in the page forbids the browser every request.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detpress.detector.images import read_image
from detpress.measure.figures import heading, mark, ratio, shown
from detpress.report.charts import Chart, line_chart, pareto_charts, recovery_chart, x_axis, y_axis
from detpress.report.drawn_pictures import Picture, as_jpeg, assets, boxes_of, open_templates
from detpress.report.fonts import Lettering, choose_lettering
from detpress.report.layers import LayerState, layer_rows, layer_states
from detpress.report.markdown import markdown
from detpress.report.pictures import SHOWN_SCORE, detections_of_image
from detpress.report.source import RowSource, Source, read_source
from detpress.report.summary import baseline_figures, scored_on, summary
from detpress.run.remarks import remarks
from detpress.run.stage import Stage
from detpress.run.stage_tables import Curves, kept_tables, training_tables
from detpress.voc.coordinates import edges_from_voc
from detpress.voc.evaluate import find_matches, precision_recall
from detpress.voc.results import ClassDetections, read_results

PICTURES = 6
RECALLS = np.linspace(0.0, 1.0, 101)


def write_report(folder: Path) -> dict[str, Path]:
    """report.html, report.md and report.csv in the folder of a run or a study; by kind.

    Raises InputError where the folder is neither, or its data set is gone.
    """
    source = read_source(folder)
    texts = {"html": page(source), "md": markdown(source.results), "csv": table(source.results)}
    written = {}
    for kind, text in texts.items():
        written[kind] = folder / f"report.{kind}"
        written[kind].write_text(text, encoding="utf-8")
    return written


def page(source: Source) -> str:
    """The HTML page."""
    results = source.results
    rows = [row for row in results["rows"] if row["figures"]]
    detections = {
        row.name: read_results(row.stages[-1].detections, source.test, source.devkit.classes) for row in source.rows
    }
    lettering = choose_lettering(source.devkit.classes)
    trainings = list(_trainings(source.rows))
    losses = list(dict.fromkeys(name for _, curves in trainings for name in curves.lines))
    environment = open_templates()
    environment.globals |= {"scored_on": scored_on, "heading": heading, "shown": shown, "mark": mark, "ratio": ratio}
    return environment.get_template("page.html").render(
        results=results,
        summary=summary(results),
        remarks=_remarks(source.rows),
        rows=results["rows"],
        reference=baseline_figures(results),
        figures=[name for name in results["metrics"] if name != "map" and any(name in row["figures"] for row in rows)],
        classes=sorted({name for row in rows for name in row["figures"] if name.startswith("ap.")}),
        pareto=list(pareto_charts(results["rows"]).values()),
        curves=list(_precision_recall_charts(source, detections)),
        layers=[(row.name, [stage.plugin for stage in row.stages], _layers(row)) for row in source.rows],
        trainings=[_training_chart(title, curves, losses) for title, curves in trainings],
        losses=losses,
        recovery=recovery_chart(
            [(row.name, [(stage.key, stage.validation) for stage in row.stages]) for row in source.rows]
        ),
        kept=[
            _kept_chart(f"{row}: {stage.plugin}, {name}", curves)
            for row, stage in _stages(source.rows)
            for name, curves in kept_tables(stage.folder).items()
        ],
        pictures=list(_pictures(source, detections, lettering)),
        numbered=lettering.numbered,
        shown_score=SHOWN_SCORE,
        sources=source.rows,
        failures=source.failures,
        css=assets("colours.css", "chart.css", "page.css"),
        script=assets("page.js"),
    )


def table(results: dict[str, Any]) -> str:
    """The rows as CSV, numbers in full."""
    rows = results["rows"]
    figures = sorted({name for row in rows for name in row["figures"]} - {"map"})
    compared = ("difference", "difference 95 % low", "difference 95 % high", "verdict")
    columns = ("recipe", "form", "seeds", "mAP", "std over seeds", "95 % low", "95 % high", *compared, *figures)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {"recipe": row["name"], "form": row["form"] or "failed", "seeds": " ".join(map(str, row["seeds"]))}
        if row["figures"]:
            means = {name: found["mean"] for name, found in row["figures"].items()}
            cells |= {"mAP": means.pop("map"), **means}
            cells |= {f"95 % {end}": row["map_interval"][end] for end in ("low", "high")}
            if len(row["seeds"]) > 1:
                cells["std over seeds"] = row["figures"]["map"]["std"]
        if found := row["difference"]:
            cells |= dict(zip(compared, (found["mean"], found["low"], found["high"], found["verdict"]), strict=True))
        writer.writerow(cells)
    return text.getvalue()


def _precision_recall_charts(
    source: Source, detections: dict[str, dict[str, ClassDetections]]
) -> Iterator[tuple[str, Chart]]:
    """For each class its chart: of each row the best precision from each of 101 recalls on, at the lowest IoU."""
    annotations = source.devkit.image_set(source.test)
    measure = source.measure
    curves: dict[str, list[tuple[int, str, list[tuple[float, float]]]]] = {}
    numbers = {row["name"]: number for number, row in enumerate(source.results["rows"])}
    for name, found in detections.items():
        for of_class, (matches, *_) in find_matches(annotations, found, measure.protocol, measure.iou).items():
            precision, recall = precision_recall(matches.true, matches.false, int(matches.positives.sum()))
            best_from = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
            at = best_from[np.searchsorted(recall, RECALLS)]
            curves.setdefault(of_class, []).append((numbers[name], name, list(zip(RECALLS, at, strict=True))))
    for of_class, lines in curves.items():
        axes = x_axis("recall", 0.0, 1.0), y_axis("precision", 0.0, 1.0)
        yield of_class, line_chart(f"Precision and recall of {of_class}", *axes, lines)


def _remarks(rows: Sequence[RowSource]) -> list[str]:
    """Of every stage of every row, those of stages that rows share once."""
    chains = [row.stages[: i + 1] for row in rows for i in range(len(row.stages))]
    found = {f"{chain[-1].index} {chain[-1].plugin}: {remark}." for chain in chains for remark in remarks(chain)}
    return sorted(found)


def _layers(row: RowSource) -> list[tuple[str, list[LayerState | None]]]:
    return layer_rows([layer_states(stage.bundle) for stage in row.stages])


def _trainings(rows: Sequence[RowSource]) -> Iterator[tuple[str, Curves]]:
    """The title of each training of the first seed, and the mean of each term of its loss by epoch."""
    for name, stage in _stages(rows):
        for number, curves in enumerate(training_tables(stage.folder)):
            yield f"{name}: {stage.plugin}{f', training {number + 1}' * (number > 0)}", curves


def _stages(rows: Sequence[RowSource]) -> Iterator[tuple[str, Stage]]:
    """Those of the first seed, each with its row's name; stages that rows share once."""
    seen = set()
    for row in rows:
        for stage in row.stages:
            if stage.key not in seen:
                yield row.name, stage
            seen.add(stage.key)


def _training_chart(title: str, curves: Curves, losses: Sequence[str]) -> Chart:
    """losses: the names of all terms, whose places decide their colours."""
    epochs, values = _coordinates(curves)
    axes = (
        x_axis("epoch", 1.0, max(2.0, *epochs)),
        y_axis("mean loss", 1.05 * min(0.0, *values), 1.05 * max([0.0, *values])),
    )
    return line_chart(title, *axes, [(losses.index(name), name, points) for name, points in curves.lines.items()])


def _kept_chart(title: str, curves: Curves) -> Chart:
    """Of a table that a plugin kept. Its axes hold what there is, and a little more upwards and downwards."""
    at, values = _coordinates(curves)
    pad = 0.05 * (max(values) - min(values)) or 0.05
    axes = x_axis(curves.x, min(at), max(at)), y_axis("", min(values) - pad, max(values) + pad)
    lines = [(number, name, points) for number, (name, points) in enumerate(curves.lines.items())]
    return line_chart(title, *axes, lines)


def _coordinates(curves: Curves) -> tuple[list[float], list[float]]:
    """Of all points: the first numbers, and the second ones."""
    points = [point for line in curves.lines.values() for point in line]
    return [x for x, _ in points], [y for _, y in points]


def _pictures(
    source: Source, detections: dict[str, dict[str, ClassDetections]], lettering: Lettering
) -> Iterator[Picture]:
    """Images spread evenly over the test set."""
    devkit = source.devkit
    annotations = devkit.image_set(source.test)
    for annotation in annotations[:: max(1, len(annotations) // PICTURES)][:PICTURES]:
        labels = [lettering.shown[name] for name in annotation.names]
        truth = boxes_of(edges_from_voc(annotation.boxes), annotation.names, labels, devkit.classes)
        panels = [("truth", truth)]
        for row, found in detections.items():
            boxes, names, scores = detections_of_image(found, annotation)
            labels = [f"{lettering.shown[name]} {score:.2f}" for name, score in zip(names, scores, strict=True)]
            panels.append((row, boxes_of(boxes.numpy(), names, labels, devkit.classes)))
        image = read_image(devkit.image_path(annotation), annotation.size)
        yield Picture(annotation.image, image.shape[2], image.shape[1], as_jpeg(image), panels)
