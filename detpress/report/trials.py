"""What a search found: the table of its trials, and a plot of the objective against what is limited."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from detpress.run.search import SearchResult


def trials_table(result: "SearchResult") -> Table:
    """One row a trial, the best first, those that failed last."""
    from detpress.run.search import score

    search, reference = result.search, result.reference
    limits = ", ".join(map(str, search.conditions)) or "none"
    relative = " x: share of stage 0's." if any(condition.relative for condition in search.conditions) else ""
    table = Table(
        title=f"{result.recipe.name}, seed {result.recipe.seed}: {len(result.trials)} trials of {search.tuner_name}",
        caption=(
            f"Scored on the image set '{result.recipe.data.val}', the winner alone is scored on "
            f"'{result.recipe.data.test}'. {'Largest' if search.maximize else 'Smallest'} {search.metric} wins; "
            f"limits: {limits}.{relative} Seconds: of making the stages, shared ones counted in each trial."
        ),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("trial", justify="right", no_wrap=True)
    for heading in (*search.space, *search.metrics, "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    winner = result.winner
    for trial in sorted(result.trials, key=lambda trial: -score(trial, search, reference)):
        remark = "winner" if trial is winner else trial.reason or ("" if trial.feasible else "misses a limit")
        table.add_row(
            str(trial.number),
            *(_short(value) for value in trial.values.values()),
            *(_short(trial.metrics[name]) if name in trial.metrics else "" for name in search.metrics),
            f"{trial.seconds:,.1f}",
            remark,
        )
    return table


def trial_line(result: "SearchResult") -> str:
    """What is said when a trial is over: its values and figures, and whether it leads."""
    trial, search = result.trials[-1], result.search
    values = ", ".join(f"{key} {_short(value)}" for key, value in trial.values.items())
    figures = ", ".join(f"{name} {_short(value)}" for name, value in trial.metrics.items())
    remark = (
        trial.reason
        or ("" if trial.feasible else "misses a limit")
        or ("best so far" if trial is result.winner else "")
    )
    which = f"trial {trial.number} ({trial.number + 1} of {search.trials})"
    return f"  {which}: {values}: " + "; ".join(filter(None, (figures, remark)))


def _short(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e12:
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trial_points(result: "SearchResult") -> "list[Point]":
    """What `plot_points` draws of a search with a limit: the limited metric across, the objective upwards."""
    across = result.search.conditions[0].metric
    return [
        Point(
            trial.metrics[across],
            trial.metrics[result.search.metric],
            "winner" if trial is result.winner else "within the limits" if trial.feasible else "not",
            f"trial {trial.number}<br>" + "<br>".join(f"{key}: {_short(value)}" for key, value in trial.values.items()),
        )
        for trial in result.trials
        if trial.metrics
    ]


@dataclass(frozen=True)
class Point:
    """One trial in a plot. group: named in the legend; text: what is shown when pointed at."""

    x: float
    y: float
    group: str
    text: str


def plot_points(points: Sequence[Point], title: str, across: str, upwards: str, path: Path) -> None:
    """Writes a scatter plot as one HTML page that needs no network."""
    import plotly.graph_objects as go

    figure = go.Figure(
        [
            go.Scatter(
                x=[point.x for point in points if point.group == group],
                y=[point.y for point in points if point.group == group],
                text=[point.text for point in points if point.group == group],
                mode="markers",
                marker={"size": 10},
                name=group,
            )
            for group in dict.fromkeys(point.group for point in points)
        ]
    )
    figure.update_layout(title=title, xaxis_title=across, yaxis_title=upwards, template="simple_white")
    figure.write_html(path, include_plotlyjs=True)
