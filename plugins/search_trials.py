"""What searches for architectures have in common: budgets, evolution, and the networks that were looked at."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Workbench
from detpress.options import Options
from detpress.runtimes.names import RuntimeName

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture

Choices = dict[str, Any]  # label -> what is chosen


class SearchOptions(Options):
    """What a network may cost at most, and how many are looked at."""

    max_parameters: int | None = Field(None, ge=1, description="networks with more are left out")
    max_macs: int | None = Field(None, ge=1, description="networks with more, for one image, are left out")
    max_latency_ms: dict[RuntimeName, float] = Field(
        {}, description="runtime -> median of one batch on this machine; networks that take longer are left out"
    )
    trials: int = Field(12, ge=1, le=10_000, description="networks that are scored")
    population: int = Field(6, ge=2, description="evolution: networks kept")
    tournament: int = Field(3, ge=1, description="evolution: networks of which the best one is mutated")
    mutation: float = Field(0.1, gt=0, le=1, description="evolution: probability that a choice is drawn anew")

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if self.evolves and self.tournament > self.population:
            raise ValueError(f"expected a `tournament` of at most `population`, {self.population}")
        if min(self.max_latency_ms.values(), default=1) <= 0:
            raise ValueError("expected `max_latency_ms` above 0")
        return self

    @property
    def evolves(self) -> bool:
        """Whether networks are made of the best ones of those before."""
        return True


class Trials:
    """The networks that were looked at, in order. architecture_of: what a choice for every label makes."""

    def __init__(
        self, architecture_of: "Callable[[Choices], Architecture]", config: SearchOptions, bench: Workbench
    ) -> None:
        self.architecture_of, self.config, self.bench = architecture_of, config, bench
        self.made: list[dict[str, Any]] = []

    def sizes(self, architecture: "Architecture") -> dict[str, int]:
        from detpress.pruning.budgets import size_of

        size = size_of(architecture)
        return {"parameters": size.parameters, "macs": size.macs}

    def excess(self, sizes: dict[str, int]) -> float:
        """By what share the budgets are exceeded; 0 within them."""
        limits = {"parameters": self.config.max_parameters, "macs": self.config.max_macs}
        return _excess(sizes, ((name, limit) for name, limit in limits.items() if limit))

    def slowness(self, architecture: "Architecture") -> tuple[dict[str, float], float]:
        """Milliseconds in the runtimes with a limit, measured once for each architecture, and by what share they
        exceed it."""
        from detpress.detector.model import new_model

        def compute(folder: Path) -> None:
            model = new_model(architecture, self.bench.seed)  # how fast it is, its weights do not matter to
            found = {runtime: self.bench.latency_ms(model, runtime) for runtime in limits}
            (folder / "latency.json").write_text(json.dumps(found))

        limits = self.config.max_latency_ms
        key = {"latency": architecture.as_dict(), "runtimes": sorted(limits)}
        found = json.loads((self.bench.remember(key, compute) / "latency.json").read_text())
        return found, _excess(found, limits.items())

    def judge(
        self, choices: Choices, score_of: "Callable[[Choices, Architecture], tuple[float | None, str | None]]"
    ) -> float:
        """mAP; below 0 for what exceeds a budget, which is not scored, and for what could not be scored.

        score_of: mAP, or None and why there is none.
        """
        architecture = self.architecture_of(choices)
        sizes: dict[str, Any] = {**self.sizes(architecture)}
        excess = self.excess(sizes)
        if not excess and self.config.max_latency_ms:
            sizes["latency_ms"], excess = self.slowness(architecture)
        if excess:
            self.add(choices, sizes, None, "exceeds a budget")
            return -excess / (1 + excess)
        self.bench.progress("trials", self.scored, self.config.trials)
        score, failure = score_of(choices, architecture)
        self.add(choices, sizes, score, failure)
        self.bench.log.info("trial %d: mAP %s, %s %s", len(self.made) - 1, score, sizes, failure or choices)
        return -1.0 if score is None else score

    @property
    def scored(self) -> int:
        return sum(trial["map"] is not None for trial in self.made)

    def enough(self) -> bool:
        """Whether as many were scored as asked for, or so many too large ones were drawn that the search is vain."""
        return self.scored >= self.config.trials or len(self.made) >= 50 * self.config.trials

    def add(self, choices: Choices, sizes: dict[str, Any], score: float | None, why: str | None = None) -> None:
        self.made.append({"trial": len(self.made), "map": score, **sizes, "why": why, "choices": choices})

    def best(self) -> dict[str, Any] | None:
        """Of those that were scored; what a supernet chose has no score, and no rival."""
        usable = [trial for trial in self.made if trial["why"] is None]
        return max(usable, key=lambda trial: trial["map"] or 0.0, default=None)

    def winner(self) -> dict[str, Any]:
        """The best one. Raises StageError where there is none."""
        from detpress.errors import StageError

        winner = self.best()
        if winner is None:
            raise StageError(f"none of {len(self.made)} networks was within the budgets and could be trained")
        return winner

    def keep(self, title: str) -> None:
        """Writes the table and the plot of mAP against MACs that stay with the stage."""
        from detpress.report.trials import Point, plot_points

        self.bench.keep("trials.json").write_text(json.dumps(self.made, indent=1) + "\n")
        winner = self.best()
        points = [
            Point(
                trial["macs"] / 1e6,
                trial["map"],
                "winner" if trial is winner else "trial",
                f"trial {trial['trial']}<br>" + "<br>".join(f"{k}: {v}" for k, v in trial["choices"].items()),
            )
            for trial in self.made
            if trial["map"] is not None
        ]
        plot_points(points, title, "MACs of one image, millions", "mAP", self.bench.keep("trials.html"))

    def evolution(self) -> dict[str, Any]:
        """Options of NNI's strategies."""
        names = ("population", "tournament", "mutation")
        return {name: getattr(self.config, name) for name in names}


def _excess(found: Mapping[str, float], limits: Iterable[tuple[str, float]]) -> float:
    return sum(max(0.0, found[name] / limit - 1) for name, limit in limits)
