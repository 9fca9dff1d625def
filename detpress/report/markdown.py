"""A report as Markdown: the summary in sentences, and the table with each figure beside the baseline's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detpress.measure.figures import heading, mark, ratio, shown
from detpress.report.source import named_in_errors, read_study
from detpress.report.summary import baseline_figures, summary


def markdown(results: dict[str, Any]) -> str:
    """results: as study.json has them."""
    lines = [f"# {_plain(results['study'])}", ""]
    lines += [_plain(results["description"]), ""] if results["description"] else []
    lines += [f"- {_plain(sentence)}" for sentence in summary(results)]
    header, *rows = _table(results)
    lines += ["", _line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
    lines += [f"x: ratio to {_plain(results['baseline'])}. ~: simulated. !: the machine was busy meanwhile.", ""]
    lines += ["Versions: " + ", ".join(f"{name} {number}" for name, number in results["versions"].items()) + "."]
    return "\n".join(lines) + "\n"


def study_markdown(path: Path) -> str:
    """That of a study.json that lies alone. Raises InputError where it is no such file."""
    with named_in_errors(path):
        return markdown(read_study(path))


def _table(results: dict[str, Any]) -> Iterator[list[str]]:
    """The cells of each line, the header's first; of a row that failed there is the name alone."""
    rows, reference = results["rows"], baseline_figures(results)
    present = {name for row in rows for name in row["figures"]}
    figures = [name for name in results["metrics"] if name in present and name != "map"]
    yield [
        "recipe",
        "form",
        "seeds",
        "mAP",
        "95 % interval",
        f"difference from {results['baseline']}",
        "verdict",
        *map(heading, figures),
    ]
    for row in rows:
        seeds = " ".join(map(str, row["seeds"]))
        if not row["figures"]:
            yield [row["name"], "failed", seeds, *[""] * (4 + len(figures))]
            continue
        others = reference if row["name"] != results["baseline"] else {}
        bounds, difference = row["map_interval"], row["difference"]
        yield [
            row["name"],
            row["form"],
            seeds,
            _cell(row, "map", others),
            f"{bounds['low']:.4f} to {bounds['high']:.4f}",
            f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})" if difference else "",
            difference["verdict"] if difference else "",
            *(_cell(row, name, others) for name in figures),
        ]


def _cell(row: dict[str, Any], figure: str, others: dict[str, Any]) -> str:
    """`28,757 (x0.00744)`; of mAP over several seeds with its standard deviation."""
    if figure not in row["figures"]:
        return ""
    found = row["figures"][figure]
    text = mark(figure, row) + shown(figure, found["mean"])
    if figure == "map" and len(row["seeds"]) > 1:
        text += f" ±{found['std']:.4f}"
    multiple = ratio(figure, found["mean"], others[figure]["mean"]) if figure in others else ""
    return f"{text} ({multiple})" if multiple else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~" else letter for letter in text)
