"""A study that is run in this process, and what it was told while it ran."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from detpress.run.store import Store
from detpress.study.comparison import compare, write_study_folder
from detpress.study.definition import Job, Study, read_study
from detpress.study.running import Outcome, Plan, open_study_data, plan_study, run_study


@dataclass
class Told:
    """A `StudyListener` that notes what it is told, and can kill the process of a plugin's stage."""

    kill_at: str | None = None
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def planned(self, plan: Plan) -> None:
        self.events.append(("planned", len(plan.plugins), len(plan.there)))

    def begin_job(self, number: int, job: Job) -> None:
        self.events.append(("job", job.name))

    def begin(self, index: int, total: int, name: str) -> None:
        self.events.append(("begin", index, total, name))
        if name == self.kill_at:
            [worker] = [child for child in psutil.Process().children() if "detpress.study.worker" in child.cmdline()]
            worker.kill()

    def waiting(self) -> None:
        self.events.append(("waiting",))

    def progress(self, what: str, done: int, total: int) -> None:
        assert 0 <= done <= total

    def end_stage(self, reused: bool, seconds: float, plan: Plan, seconds_left: float | None) -> None:
        self.events.append(("end", reused, seconds_left))

    def end_job(self, number: int, outcome: Outcome) -> None:
        self.events.append(("done" if outcome.failure is None else "failed", outcome.job.name))


@dataclass(frozen=True)
class Finished:
    study: Study
    plan: Plan
    store: Store
    folder: Path
    outcomes: dict[str, Outcome]
    results: dict[str, Any]
    told: Told


def run(path: Path, cache: Path, folder: Path, kill_at: str | None = None) -> Finished:
    study, store, told = read_study(path), Store(cache / "store"), Told(kill_at)
    devkits = open_study_data(study)
    plan = plan_study(study, store, devkits)
    told.planned(plan)
    outcomes = list(run_study(plan, store, folder, told))
    results = compare(study, outcomes, devkits)
    write_study_folder(study, results, folder)
    return Finished(study, plan, store, folder, {found.job.variant: found for found in outcomes}, results, told)
