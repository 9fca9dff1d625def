"""A study of four recipes on a dozen generated images, really run: one recipe fails and one is killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from detpress.store import Store
from detpress.study.comparison import compare, write_study_folder
from detpress.study.definition import Job, Study, read_study
from detpress.study.running import Outcome, Plan, plan_study, run_study
from detpress.voc.digits import write_digits

STUDY = """\
name: four
seeds: [0]
shared:
  data: {{root: {data}}}
  model: {{weights: "builtin:digits"}}
  measure: {{runtimes: [openvino]}}
recipes:
  - {{name: whole, chain: []}}
  - {{name: pruned, chain: [nni.l1norm: {{sparsity: 0.2}}, nni.speedup]}}
  - {{name: broken, chain: [inc.static_int8: {{calibration_images: 1000}}]}}
  - {{name: trained, chain: [train.finetune: {{epochs: 2, learning_rate: 0.0001}}]}}
"""


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
            [worker] = psutil.Process().children()
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
    plan = plan_study(study, store)
    told.planned(plan)
    outcomes = list(run_study(plan, store, folder, told))
    results = compare(study, outcomes, plan.devkit)
    write_study_folder(study, results, folder)
    return Finished(study, plan, store, folder, {found.job.variant: found for found in outcomes}, results, told)


@contextmanager
def cache_at(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETPRESS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_digits(folder / "digits", {"train": 16, "val": 4, "test": 12})
    path = folder / "four.yaml"
    path.write_text(STUDY.format(data="digits"))
    return path


@pytest.fixture(scope="session")
def killed(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The study run once, its training killed."""
    with cache_at(tmp_path_factory.mktemp("cache")) as cache:
        return run(study_file, cache, study_file.parent / "runs", kill_at="train.finetune")


@pytest.fixture(scope="session")
def finished(killed: Finished, study_file: Path) -> Finished:
    """The same study run again in the same place."""
    with cache_at(killed.store.root.parent) as cache:
        return run(study_file, cache, killed.folder)
