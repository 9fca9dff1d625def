"""Makes one stage's bundle, in whichever process this is called."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from detpress.detector.model import Model
from detpress.doors import Entry, entries_of
from detpress.doors.broken import place_of, place_raised
from detpress.encodings.bundle import save_bundle
from detpress.engine_log import standard_output_into
from detpress.errors import DetpressError, InputError, StageError, no_room, own_kind
from detpress.measure.section import Measure
from detpress.recipe.sections import Data, Running
from detpress.run.keys import DOORS
from detpress.run.workbench import StageWorkbench
from detpress.training.process import seeded
from detpress.voc.devkit import Devkit


@dataclass(frozen=True)
class Work:
    """What a stage consists in.

    apart: how the process of its own runs, in which it is done; None where it is done in this one.
    entry: who brings the plugin, if that is another package.
    environment: the versions in its engine's own environment, by package, if it has one.
    """

    plugin: str
    do: Callable[[StageWorkbench], Model]
    apart: Running | None = None
    entry: Entry | None = None
    environment: dict[str, str] | None = None

    def __str__(self) -> str:
        """As errors name it."""
        return f"{self.plugin} ({self.entry.distribution} {self.entry.version})" if self.entry else self.plugin


@dataclass(frozen=True)
class Task:
    """A stage that is to be made, and all that is needed for it; it can be handed to another process.

    scratch: the stage's folder, of which `stage/` becomes the finished stage.
    """

    work: Work
    scratch: Path
    seed: int
    devkit: Devkit
    data: Data
    measure: Measure

    @property
    def unfinished(self) -> Path:
        return self.scratch / "stage"

    @property
    def bundle(self) -> Path:
        return self.unfinished / "bundle"

    @property
    def log(self) -> Path:
        return self.scratch / "stage.log"


@dataclass(frozen=True)
class Made:
    """What is known of a stage beside its bundle. seconds: without saving it. threads: on which it was computed."""

    seconds: float
    threads: int
    notes: list[str]
    figures: dict[str, float]


def make(task: Task, progress: Callable[[str, int, int], None]) -> Made:
    """Makes the task's bundle. Raises StageError, or another DetpressError, that names the plugin."""
    with said(task) as log, task.log.open("ab") as printed, standard_output_into(printed.fileno()):
        workbench = StageWorkbench(
            task.seed,
            task.scratch,
            log,
            progress,
            task.devkit,
            task.data,
            task.measure,
            files=task.unfinished / "files",
        )
        started, maker = time.perf_counter(), os.getpid()
        with seeded(task.seed), torch_as_it_was():
            model = task.work.do(workbench)
        if os.getpid() != maker:
            os._exit(0)  # a copy of the process, which the step has made and lets return, too
        seconds = time.perf_counter() - started
        with refused():
            save_bundle(model, task.bundle)
        return Made(round(seconds, 3), torch.get_num_threads(), list(model.notes), workbench.figures)


@contextmanager
def said(task: Task) -> Iterator[logging.Logger]:
    """The stage's log. What is raised meanwhile becomes one line that names the plugin; its traceback is in the log."""
    with log_file(task.scratch.name, task.log) as log, _errors_named(task, log):
        yield log


@contextmanager
def refused() -> Iterator[None]:
    """A model that cannot be saved, or read again, would never be of use: StageError."""
    try:
        yield
    except (InputError, ValueError, RuntimeError) as error:
        raise StageError(f"gave a model that no bundle can hold: {error}") from error


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """What a plugin sets in PyTorch for the whole process is set back, so that it decides nothing of later stages."""
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic, precision = _determinism(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(gradients)
        if _determinism() != deterministic:  # setting it imports half of PyTorch, which takes a second
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.set_float32_matmul_precision(precision)


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def log_file(name: str, path: Path) -> Iterator[logging.Logger]:
    """A logger that writes to `path` and nowhere else; what is resumed appends."""
    log = logging.getLogger(f"detpress.run.stage.{name}")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield log
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def _errors_named(task: Task, log: logging.Logger) -> Iterator[None]:
    try:
        yield
    except DetpressError as error:
        log.error("%s", error)
        raise own_kind(error)(f"{task.work}: {_own_words(error)}") from error
    except SystemExit as error:  # otherwise the whole program would end here, perhaps with an exit code of 0
        log.exception("%s failed", task.work)
        raise StageError(f"{task.work} failed: it asked the program to exit ({error.code}); see {task.log}") from error
    except Exception as error:
        if no_room(error):
            raise
        log.exception("%s failed", task.work)
        what = f"{type(error).__name__}: {_own_words(error).splitlines()[0]}"
        raise StageError(f"{task.work} failed: {what}{_culprit(error, task.work.entry)}; see {task.log}") from error


def _culprit(error: Exception, entry: Entry | None) -> str:
    """Where it was raised: in the plugin's package, or in that of an objective, layer or encoding that it used."""
    if entry and (place := place_of(error, entry)):
        return f", at {place}"
    for other in (other for door in DOORS for other in entries_of(door.group).values() if not other.built_in):
        if place := place_raised(error, other):
            return f", in {other}, at {place}"
    return ""


def _own_words(error: Exception) -> str:
    """The message; where it is the traceback of another process, as PyTorch hands it on, what was raised there."""
    try:
        message = str(error).strip() or "no message"
    except Exception:  # a stranger's error may have no words
        return "its message cannot be read"
    if "Traceback (most recent call last)" in message:
        last = message.splitlines()[-1]  # `ValueError: odd`, or `AssertionError` alone
        return last.partition(": ")[2] or last
    return message
