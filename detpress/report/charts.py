"""Charts as numbers in an SVG's coordinates; template/chart.html draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detpress.measure.figures import heading, is_simulated, shown

WIDTH, HEIGHT = 560.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 14.0, 46.0


@dataclass(frozen=True)
class Axis:
    """A range of values over a range of coordinates. ticks: coordinate and text of each."""

    label: str
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        return [(self.at(value), f"{value:,.10g}") for value in self._round_values()]

    def _round_values(self) -> list[float]:
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            values = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
            return [value for value in values if self.low <= value <= self.high]
        step = nice_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(value) for value in np.arange(first, last + 1) * step]


def nice_step(extent: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... that divides the extent into at most six parts."""
    power = 10.0 ** math.floor(math.log10(extent / 6))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= extent / 6 - 1e-12)


def x_axis(label: str, low: float, high: float) -> Axis:
    return Axis(label, low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)


def cost_axis(label: str, costs: Sequence[float]) -> Axis:
    """From 0, or logarithmic where the largest is ten times the smallest and more, so that small ones lie apart."""
    if min(costs) > 0 and max(costs) >= 10 * min(costs):
        return Axis(f"{label}, logarithmic", min(costs) / 1.2, max(costs) * 1.2, LEFT, WIDTH - RIGHT, logarithmic=True)
    return x_axis(label, 0.0, 1.05 * max(costs))


def y_axis(label: str, low: float, high: float) -> Axis:
    return Axis(label, low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP)


@dataclass(frozen=True)
class Point:
    """A row's mean. number: of the row, from 0, which decides its colour; low, high: y of the ends of its interval."""

    number: int
    name: str
    x: float
    y: float
    low: float
    high: float
    on_front: bool
    tip: str


@dataclass(frozen=True)
class Line:
    """A row's curve. path: `x,y x,y ...`."""

    number: int
    name: str
    path: str


@dataclass(frozen=True)
class Chart:
    title: str
    x: Axis
    y: Axis
    points: list[Point] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    front: str = ""  # the path of the Pareto front


def pareto_charts(rows: Sequence[dict[str, Any]]) -> dict[str, Chart]:
    """One for each cost that a row is on the Pareto front of. rows: as study.json has them."""
    costs = dict.fromkeys(cost for row in rows for cost in row["fronts"])
    return {cost: pareto_chart(rows, cost) for cost in costs}


def pareto_chart(rows: Sequence[dict[str, Any]], cost: str) -> Chart:
    """mAP with its interval against a cost, for the rows that have it; simulated costs are left out."""
    drawn = [
        (number, row)
        for number, row in enumerate(rows)
        if cost in row["figures"] and not is_simulated(cost, row["simulated"])
    ]
    scale, unit = unit_of(cost)
    costs = [row["figures"][cost]["mean"] / scale for _, row in drawn]
    lows, highs = ([row["map_interval"][side] for _, row in drawn] for side in ("low", "high"))
    pad = 0.05 * (max(highs) - min(lows)) or 0.05
    x = cost_axis(f"{heading(cost)}{unit}", costs)
    y = y_axis("mAP", max(0.0, min(lows) - pad), min(1.0, max(highs) + pad))
    points = []
    for (number, row), value in zip(drawn, costs, strict=True):
        mean, bounds = row["figures"]["map"]["mean"], row["map_interval"]
        tip = (
            f"{row['name']}: mAP {mean:.4f} [{bounds['low']:.4f}, {bounds['high']:.4f}], "
            f"{heading(cost)} {shown(cost, row['figures'][cost]['mean'])}"
        )
        on_front = cost in row["fronts"]
        points.append(
            Point(
                number, row["name"], x.at(value), y.at(mean), y.at(bounds["low"]), y.at(bounds["high"]), on_front, tip
            )
        )
    front = " ".join(f"{p.x},{p.y}" for p in sorted((p for p in points if p.on_front), key=lambda p: (p.x, p.y)))
    return Chart(f"mAP against {heading(cost)}", x, y, points, front=front)


def unit_of(cost: str) -> tuple[float, str]:
    """What a cost is divided by on an axis, and what the axis says of that."""
    if cost.startswith("storage_bytes."):
        return 1e6, " (MB)"
    if cost.startswith("latency_ms."):
        return 1.0, " (ms)"
    return {"parameters": (1e6, " (millions)"), "macs": (1e6, " (millions for one image)")}.get(cost, (1.0, ""))


def line_chart(title: str, x: Axis, y: Axis, curves: Sequence[tuple[int, str, Sequence[tuple[float, float]]]]) -> Chart:
    """curves: the number and name of each, and its points."""
    lines = [
        Line(number, name, " ".join(f"{x.at(a):g},{y.at(b):g}" for a, b in points)) for number, name, points in curves
    ]
    return Chart(title, x, y, lines=lines)


ScoredStage = tuple[str, Sequence[tuple[int, float]]]  # a stage's key, and its mAP on the validation images by epoch


def recovery_chart(rows: Sequence[tuple[str, Sequence[ScoredStage]]]) -> Chart | None:
    """Of each row, by its name, the last training that it has for itself; None where none was scored twice."""
    found: dict[str, tuple[int, str, Sequence[tuple[int, float]]]] = {}
    for number, (name, stages) in enumerate(rows):
        scored = [(key, points) for key, points in stages if points]
        if scored:
            found.setdefault(scored[-1][0], (number, name, scored[-1][1]))
    curves = [curve for curve in found.values() if len(curve[2]) > 1]
    if not curves:
        return None
    epochs, scores = zip(*(point for *_, points in curves for point in points), strict=True)
    axes = x_axis("epoch", 0.0, max(epochs)), y_axis("mAP", 0.0, 1.05 * max(scores))
    return line_chart("mAP on the validation images by epoch", *axes, curves)
