"""Runs the jobs of a study one after the other, each in a process of its own, so that latencies are not disturbed.

The store is the only memory: what a job needs is looked up by its stages' keys, before and after its process ran.
So prefixes that recipes share are computed once, and a study that was killed goes on where it was.
"""

import contextlib
import itertools
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from detpress.detector.model import Model
from detpress.errors import InputError, StageError, ending, nearest
from detpress.progress import Progress
from detpress.recipe.sections import Running
from detpress.run.chain import check_map_loss, find_chain, stage_names
from detpress.run.initial_model import initial_model, open_recipe_data, recipe_classes
from detpress.run.keys import chain_keys
from detpress.run.run_folder import copy_stage
from detpress.run.stage import Stage, measurement_digest
from detpress.run.store import Store, digest
from detpress.study.definition import Job, Study
from detpress.voc.devkit import Devkit


@dataclass(frozen=True)
class PlannedJob:
    """A job with its data set and the keys of its stages, the model before the first plugin included."""

    job: Job
    devkit: Devkit
    keys: tuple[str, ...]

    @property
    def plugins(self) -> list[str]:
        return stage_names(self.job.recipe)

    @property
    def asked(self) -> list[tuple[str, str, Running | None]]:
        """Each stage's key, what is measured of it, and the limits of its step: what fails so need not otherwise."""
        recipe = self.job.recipe
        measured = measurement_digest(recipe, self.devkit, recipe.data.test)
        limits = (None, *(step.running for step in recipe.chain))
        return [(key, measured, running) for key, running in zip(self.keys, limits, strict=True)]


@dataclass
class Plan:
    """What a study needs and what is there already.

    plugins: stage key -> plugin, of all stages of all jobs, shared ones once.
    there: keys of the stages that are made and measured.
    given_up: keys of the stages that will not be made.
    seconds: plugin -> what stages of it took, of those made while the study runs.
    """

    jobs: list[PlannedJob]
    plugins: dict[str, str]
    there: set[str]
    given_up: set[str] = field(default_factory=set)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def made(self, key: str, seconds: float) -> None:
        self.there.add(key)
        self.seconds[self.plugins[key]].append(seconds)

    def seconds_left(self) -> float | None:
        """An estimate: stages still to make, each at the mean of its plugin's or, before there is one, of all.

        None before the first stage was made.
        """
        everything = [value for values in self.seconds.values() for value in values]
        if not everything:
            return None
        missing = Counter(
            plugin for key, plugin in self.plugins.items() if key not in self.there and key not in self.given_up
        )
        return sum(count * fmean(self.seconds.get(plugin) or everything) for plugin, count in missing.items())


@dataclass(frozen=True)
class Outcome:
    """What became of a job. stages: those it has, from the first on. failure: one line, where it failed."""

    job: Job
    stages: list[Stage]
    failure: str | None
    log: Path  # there where something ran


class StudyListener(Protocol):
    """Is told how a study goes on; in between, as a `detpress.run.stage.Listener`, how the stages of a job do."""

    def planned(self, plan: Plan) -> None:
        """Nothing has run yet."""

    def begin_job(self, number: int, job: Job) -> None:
        """The process of job `number`, from 1, starts."""

    def begin(self, index: int, total: int, name: str) -> None: ...

    def waiting(self) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...

    def end_stage(self, reused: bool, seconds: float, plan: Plan, seconds_left: float | None) -> None:
        """A stage is there, after `seconds` with its measurement; the rest of the study takes about `seconds_left`."""

    def end_job(self, number: int, outcome: Outcome) -> None: ...


def open_study_data(study: Study, progress: Progress | None = None) -> dict[int | None, Devkit]:
    """The data set that all recipes share, by fold. Raises InputError as `open_data` does."""
    first = {job.fold: job.recipe for job in reversed(study.jobs)}
    return {fold: open_recipe_data(first[fold], progress) for fold in study.folds}


def plan_study(study: Study, store: Store, devkits: Mapping[int | None, Devkit]) -> Plan:
    """devkits: the data set by fold. Raises InputError where it or weights cannot be read, or classes differ."""
    _check_metrics(study, next(iter(devkits.values())).classes)
    models: dict[str, Model] = {}
    named: dict[str, Devkit] = {}
    jobs: list[PlannedJob] = []
    plugins: dict[str, str] = {}
    there: set[str] = set()
    for job in study.jobs:
        recipe = job.recipe
        beginning = [recipe.model.model_dump(), recipe.data.model_dump()]  # which has the fold, as a job's recipe does
        if (same := digest(beginning)) not in named:
            named[same] = devkits[job.fold].naming(recipe_classes(recipe))
            _check_classes(job, named[same], study.jobs[0], devkits[job.fold])
        devkit = named[same]
        drawn = recipe.model.weights is None or recipe.model.classes is not None
        same_model = digest([*beginning, recipe.seed if drawn else None])
        if same_model not in models:
            models[same_model] = initial_model(recipe, devkit)
        planned = PlannedJob(job, devkit, tuple(chain_keys(recipe, devkit, models[same_model])))
        jobs.append(planned)
        plugins |= dict(zip(planned.keys, planned.plugins, strict=True))
        there |= {stage.key for stage in find_chain(recipe, planned.keys, devkit, store)}
    return Plan(jobs, plugins, there)


def _check_metrics(study: Study, classes: Sequence[str]) -> None:
    """Raises InputError for the AP of a class that there is not."""
    for name in (metric.removeprefix("ap.") for metric in study.metrics if metric.startswith("ap.")):
        if name not in classes:
            raise InputError(f"{study.name}: metrics: ap.{name}: no class '{name}'; {nearest(name, classes)}")


def _check_classes(job: Job, devkit: Devkit, first: Job, its_devkit: Devkit) -> None:
    """Raises InputError where one detector looks for what another does not: mAP is a mean over the classes."""
    if set(devkit.classes) != set(its_devkit.classes):
        raise InputError(
            f"{job.recipe.where(('data', 'classes'))}: {job.variant} cannot be compared with {first.variant}: "
            f"its classes are {', '.join(devkit.classes)}, not {', '.join(its_devkit.classes)}"
        )


def run_study(plan: Plan, store: Store, folder: Path, listener: StudyListener) -> Iterator[Outcome]:
    """The jobs' outcomes, one after the other; one that fails is an outcome, too.

    What a job leaves in `folder`: recipes/<job>.yaml, logs/<job>.log where a process ran, and a folder below stages/
    for each stage.
    """
    prepare_folder(plan, folder)
    failures: dict[tuple[str, str, Running | None], str] = {}  # what was asked for and given up -> why
    for number, planned in enumerate(plan.jobs, start=1):
        job = planned.job
        listener.begin_job(number, job)
        there = len(find_chain(job.recipe, planned.keys, planned.devkit, store))
        failure = next((failures[asked] for asked in planned.asked[there:] if asked in failures), None)
        made: set[str] = set()
        if there < len(planned.keys) and failure is None:
            process = _Process(planned, plan, store, listener)
            failure = process.run(recipe_file(folder, job), log_file(folder, job))
            made = process.made
        outcome = conclude(planned, store, folder, failure, made)
        if outcome.failure is not None and len(outcome.stages) < len(planned.keys):
            lost = len(outcome.stages)
            plan.given_up.add(planned.keys[lost])
            if _lost_map(job, outcome.stages) is None:  # which another recipe may allow
                failures[planned.asked[lost]] = outcome.failure
        listener.end_job(number, outcome)
        yield outcome


def prepare_folder(plan: Plan, folder: Path) -> None:
    """The study's folder, and in it the recipes of all jobs."""
    for name in ("recipes", "logs", "stages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for planned in plan.jobs:
        recipe_file(folder, planned.job).write_text(planned.job.text, encoding="utf-8")


def recipe_file(folder: Path, job: Job) -> Path:
    return folder / "recipes" / f"{job.name}.yaml"


def log_file(folder: Path, job: Job) -> Path:
    return folder / "logs" / f"{job.name}.log"


def conclude(planned: PlannedJob, store: Store, folder: Path, failure: str | None, made: set[str]) -> Outcome:
    """What became of a job, its stages copied into the study's folder. made: keys of those that were made for it."""
    job = planned.job
    stages = [
        replace(stage, reused=stage.key not in made)
        for stage in find_chain(job.recipe, planned.keys, planned.devkit, store)
    ]
    if failure is None and len(stages) < len(planned.keys):
        failure = "ended as if all went well, but its stages are not in the store"
    for stage in stages:
        copy_stage(stage, folder / stage_folder(stage, job))
    return Outcome(job, stages, failure or _lost_map(job, stages), log_file(folder, job))


def stage_folder(stage: Stage, job: Job) -> str:
    """A stage's folder in the study's; jobs that share a stage, and are scored on the same images, share it."""
    return f"stages/{stage.key[:16]}-{stage.plugin}" + (f"-fold{job.fold}" if job.fold is not None else "")


def _lost_map(job: Job, stages: list[Stage]) -> str | None:
    try:
        for parent, stage in itertools.pairwise(stages):
            check_map_loss(job.recipe, parent, stage)
    except StageError as error:
        return str(error)
    return None


class _Process:
    """The process of one job."""

    def __init__(self, planned: PlannedJob, plan: Plan, store: Store, listener: StudyListener) -> None:
        self.planned, self.plan, self.store, self.listener = planned, plan, store, listener
        self.index = 0  # of the stage that is being made
        self.made: set[str] = set()  # keys of the stages that it made
        self.failure: str | None = None

    def run(self, recipe: Path, log: Path) -> str | None:
        """Why it failed, in one line; None if it did not. Its standard error and its stage's log are in `log`."""
        # -P: a module of the user's in the working directory is none of ours.
        command = [sys.executable, "-P", "-m", "detpress.study.worker", str(recipe)]
        with (
            log.open("w", encoding="utf-8") as errors,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
            ) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    self._hear(json.loads(line))
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if code == 0:
            return None
        self._keep_stage_log(log)
        return self.failure or f"{self.planned.plugins[self.index]}: {ending(code)}; see {log}"

    def _hear(self, event: dict[str, Any]) -> None:
        listener = self.listener
        tell: Callable[..., None]
        match event.pop("event"):
            case "begin":
                self.index = event["index"]
                tell = listener.begin
            case "waiting":
                tell = listener.waiting
            case "progress":
                tell = listener.progress
            case "failed":
                self.failure = event["reason"]
                return
            case _:
                key = self.planned.keys[self.index]
                if event["reused"]:
                    self.plan.there.add(key)
                else:
                    self.made.add(key)
                    self.plan.made(key, event["seconds"])
                event |= {"plan": self.plan, "seconds_left": self.plan.seconds_left()}
                tell = listener.end_stage
        tell(**event)

    def _keep_stage_log(self, log: Path) -> None:
        """The next attempt begins with a new one."""
        source = self.store.root / "scratch" / self.planned.keys[self.index] / "stage.log"
        with contextlib.suppress(FileNotFoundError):
            text = source.read_text(encoding="utf-8", errors="replace")
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\nThe log of {self.planned.plugins[self.index]}:\n{text}")
