"""Runs the search that a recipe asks for: trial after trial, each a whole chain with other numbers in it.

    tuner ── values ──> trial recipe ── run_chain ──> stages in the store, scored on the validation images
      ^                                                             │
      └───────────── score: feasible? how good? ────────────────────┘

Nothing is chosen by the test images: trials are scored on the recipe's `val` set, and only the winner is scored on
`test`, when its recipe is run like any other. A trial is nothing but stages in the store, so trials that begin alike
share their beginning; and after a kill the tuner, begun anew with the same seed, asks for the same trials, which are
there already. What the store cannot tell, that a trial failed, stands in trials.json.
"""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detpress.contract.tuner import Judge
from detpress.detector.form import Form
from detpress.doors.broken import words_of
from detpress.errors import DetpressError, InputError, StageError, no_room
from detpress.files.folders import write_atomically
from detpress.files.plain_json import read_json
from detpress.measure.figures import figure
from detpress.measure.scoring import protocol_id, scoring_runtime
from detpress.recipe.file import Recipe, recipe_text, trial_recipe
from detpress.recipe.search import Search
from detpress.run.chain import run_chain
from detpress.run.initial_model import initial_model
from detpress.run.keys import chain_keys
from detpress.run.making import log_file
from detpress.run.shared_store import SharedStoreError
from detpress.run.stage import Listener, Stage
from detpress.run.store import Store
from detpress.voc.devkit import Devkit


@dataclass(frozen=True)
class Trial:
    """One chain that was run.

    key: of its last stage in the store; values: key of the recipe -> what the tuner proposed.
    metrics: the objective and what is limited, of the last stage that was measured, on the validation images.
    violation: by how much limits are missed, see `Condition.violation`; 0 where all are met.
    seconds: what making its stages took, whenever that was; those shared with other trials are counted each time.
    """

    number: int
    key: str
    values: dict[str, Any]
    status: Literal["done", "stopped", "failed"]
    metrics: dict[str, float] = field(default_factory=dict)
    violation: float = 0.0
    seconds: float = 0.0
    reason: str | None = None

    @property
    def feasible(self) -> bool:
        return self.status == "done" and self.violation == 0


@dataclass(frozen=True)
class SearchResult:
    """The trials in the order in which they were made, and stage 0, which limits such as `<= 0.3x` refer to."""

    recipe: Recipe
    search: Search
    reference: dict[str, float]
    trials: tuple[Trial, ...] = ()

    @property
    def winner(self) -> Trial | None:
        """The best of the feasible trials, the first of equals; None where no trial is feasible."""
        feasible = [trial for trial in self.trials if trial.feasible]
        return max(feasible, key=lambda trial: score(trial, self.search, self.reference), default=None)

    def as_dict(self) -> dict[str, Any]:
        """What trials.json holds."""
        return {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "search": self.search.as_dict(),
            "scored_on": self.recipe.data.val,
            "protocol": protocol_id(self.recipe.measure),
            "reference": self.reference,
            "trials": [{**asdict(trial), "feasible": trial.feasible} for trial in self.trials],
            "winner": self.winner.number if self.winner else None,
        }


def run_search(
    recipe: Recipe, devkit: Devkit, store: Store, listener: Listener, folder: Path
) -> Iterator[SearchResult]:
    """The search so far, after every trial; trials.json in `folder` is written each time, search.log grows.

    A trial that fails is recorded and the search goes on. Raises InputError or StageError where the model before the
    chain cannot be measured.
    """
    search = recipe.search
    assert search is not None
    folder.mkdir(parents=True, exist_ok=True)
    failures = _known_failures(folder / "trials.json", _limits(recipe))
    with log_file(str(folder), folder / "search.log") as log:
        judge = None
        with _named_in_errors(search.tuner_name):
            proposals = search.tuner.start(search.space, search.tuner_config, recipe.seed, log)
        if search.assessor:
            with _named_in_errors(str(search.assessor_name)):
                judge = search.assessor.start(len(recipe.chain), search.assessor_config, log)
        runner = _TrialRunner(recipe, search, devkit, store, listener, judge, failures, log)
        result = SearchResult(recipe, search, runner.reference())
        for number in range(search.trials):
            with _named_in_errors(search.tuner_name):
                values = _plain(proposals.ask())
            if values is None:
                if not result.trials:
                    raise StageError(f"{search.tuner_name}: proposed no trial")
                log.info("the tuner has nothing more to try")
                break
            trial = runner.run(number, values, result.reference)
            with _named_in_errors(search.tuner_name):
                proposals.tell(values, score(trial, search, result.reference))
            result = replace(result, trials=(*result.trials, trial))
            found = result.as_dict() | {"limits": _limits(recipe), "failures": runner.failures}
            write_atomically(folder / "trials.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            yield result


def winner_recipe(result: SearchResult) -> str:
    """The text of a recipe without search that makes the winner. Raises StageError where no trial is feasible."""
    if result.winner is None:
        failed = [trial for trial in result.trials if trial.status == "failed"]
        if failed and len(failed) == len(result.trials):
            raise StageError(f"every trial failed; trial {failed[0].number}: {failed[0].reason}")
        limits = ", ".join(map(str, result.search.conditions))
        raise StageError(f"none of {len(result.trials)} trials came to its end within the limits: {limits}")
    return recipe_text(trial_recipe(result.recipe, result.winner.values), f"{result.recipe.name}-winner")


def score(trial: Trial, search: Search, reference: dict[str, float]) -> float:
    """How good a trial is, as the one number that a tuner is told: the larger, the better, from -1 to 1.

    The order is that of Deb, "An efficient constraint handling method for genetic algorithms", 2000: a feasible trial
    is better than one that misses a limit; of two feasible ones, the objective decides; of two others, by how much
    they miss. So feasible ones score above 0: by the objective r, relative to the size of stage 0's, (1 + s) / 2 when
    it shall be large and (1 - s) / 2 when it shall be small, with s = r / (1 + |r|); others score -v / (1 + v) by
    violation v, and a failed one -1.
    """
    if trial.status == "failed":
        return -1.0
    if trial.violation:
        return -trial.violation / (1 + trial.violation)
    return _objective_score(trial.metrics[search.metric], search, reference)


def _objective_score(value: float, search: Search, reference: dict[str, float]) -> float:
    relative = value / (abs(reference.get(search.metric, 0.0)) or 1.0)
    between = relative / (1 + abs(relative))  # -1 and 1, in the same order
    return (1 + between) / 2 if search.maximize else (1 - between) / 2


@dataclass(frozen=True)
class _TrialRunner:
    recipe: Recipe
    search: Search
    devkit: Devkit
    store: Store
    listener: Listener
    judge: Judge | None
    failures: dict[str, str]  # key -> reason, those of an earlier run among them
    log: logging.Logger

    def reference(self) -> dict[str, float]:
        """Stage 0's metrics."""
        measured = self._measured(trial_recipe(self.recipe, self._first_values()))
        stages = run_chain(measured, self.devkit, self.store, _Quiet(self.listener, "before"), self.recipe.data.val)
        stage = next(stages)
        relative = {condition.metric for condition in self.search.conditions if condition.relative}
        found = {}
        for metric in self.search.metrics:
            try:
                found[metric] = figure(stage.metrics, metric)
            except InputError:  # what only the last stage has, such as the storage of int8, needs no reference
                if metric in relative:
                    raise
        return found

    def run(self, number: int, values: dict[str, Any], reference: dict[str, float]) -> Trial:
        """The trial, failed or not. What the disk or the user stops is no failed trial."""
        self.log.info("trial %d: %s", number, values)
        keys = [""]
        try:
            recipe = self._measured(trial_recipe(self.recipe, values))
            keys = chain_keys(recipe, self.devkit, initial_model(recipe, self.devkit))
            if keys[-1] in self.failures:
                raise StageError(self.failures[keys[-1]])
            trial = self._made(Trial(number, keys[-1], values, "done"), recipe, reference)
        except SharedStoreError:
            raise
        except DetpressError as error:
            trial = Trial(number, keys[-1], values, "failed", reason=str(error))
            if keys[-1]:
                self.failures[keys[-1]] = str(error)
        trial = replace(trial, seconds=sum(self.store.seconds(key) for key in keys if key and self.store.has(key)))
        self.log.info("trial %d: %s %s %s", number, trial.status, trial.metrics, trial.reason or "")
        return trial

    def _made(self, trial: Trial, recipe: Recipe, reference: dict[str, float]) -> Trial:
        search, judge = self.search, self.judge
        quiet = _Quiet(self.listener, f"trial {trial.number} ({trial.number + 1} of {search.trials})")
        only_ends = judge is None and recipe.measure.max_map_loss is None
        history: list[float] = []
        stages: list[Stage] = []
        hopeless = False
        for stage in run_chain(recipe, self.devkit, self.store, quiet, recipe.data.val, only_ends):
            stages.append(stage)
            if judge and stage.index:
                history.append(_objective_score(figure(stage.metrics, search.metric), search, reference))
                with _named_in_errors(str(search.assessor_name)):
                    hopeless = judge.hopeless(trial.number, history)
                if hopeless:
                    break
        stopped = hopeless and stages[-1].index < len(recipe.chain)
        if judge:
            with _named_in_errors(str(search.assessor_name)):
                judge.end(trial.number, history, not stopped)
        metrics = {metric: figure(stages[-1].metrics, metric) for metric in search.metrics}
        return replace(
            trial,
            status="stopped" if stopped else "done",
            metrics=metrics,
            violation=math.fsum(
                condition.violation(metrics[condition.metric], reference.get(condition.metric, 0.0))
                for condition in search.conditions
            ),
            reason=f"stopped early, after {stages[-1].plugin}" if stopped else None,
        )

    def _first_values(self) -> dict[str, Any]:
        return {key: of.ends()[0] for key, of in self.search.space.items()}

    def _measured(self, recipe: Recipe) -> Recipe:
        """The recipe with nothing measured that the search does not ask about, but where mAP is."""
        form = Form.DENSE
        for step in recipe.chain:
            form = step.plugin.returns or form
        by_runtime = ("latency_ms.", "map_by_runtime.")
        asked = {metric.split(".")[1] for metric in self.search.metrics if metric.startswith(by_runtime)}
        scored_in = scoring_runtime(form, list(recipe.measure.runtimes))
        runtimes = [name for name in recipe.measure.runtimes if name in asked or name == scored_in != "torch"]
        memory = "peak_memory_bytes" in self.search.metrics
        return replace(recipe, measure=recipe.measure.model_copy(update={"runtimes": runtimes, "memory": memory}))


class _Quiet:
    """Tells a listener of a trial's progress, but not of its stages one by one."""

    def __init__(self, listener: Listener, trial: str) -> None:
        self._listener = listener
        self._trial = trial
        self._stage = ""

    def begin(self, index: int, total: int, name: str) -> None:
        self._stage = f"{self._trial}, {name}"

    def waiting(self) -> None:
        self._listener.waiting()

    def progress(self, what: str, done: int, total: int) -> None:
        self._listener.progress(f"{self._stage}: {what}", done, total)

    def end(self, stage: Stage) -> None:
        """The search tells of the whole trial."""


@contextmanager
def _named_in_errors(what: str) -> Iterator[None]:
    """Whatever a stranger's tuner or assessor raises becomes one line; detpress's own errors are one already."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DetpressError) or no_room(error):
            raise
        raise StageError(f"{what} failed: {words_of(error)}") from error


def _plain(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """NumPy's numbers as Python's, which YAML and JSON have."""
    return values and {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _limits(recipe: Recipe) -> dict[str, Any]:
    """What a trial may fail by and its key does not have: with others it is tried again."""
    steps = [step.running.model_dump() for step in recipe.chain]
    return {"measure": recipe.measure.model_dump(mode="json"), "steps": steps}


def _known_failures(path: Path, limits: dict[str, Any]) -> dict[str, str]:
    """Key -> reason of the trials that failed when this folder's search was run before, within the same limits."""
    if not path.exists():
        return {}
    try:
        found = read_json(path)
        return dict(found["failures"]) if found["limits"] == limits else {}
    except (InputError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the trials of a search; remove it, or give another --out") from error
