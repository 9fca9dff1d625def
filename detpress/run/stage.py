"""One stage: made once, kept in the store, measured in the same way as every other.

What a finished stage's folder holds:

    bundle/                      the model
    stage.json                   the plugin, the form, the seconds that making it took, and on how many threads
    stage.log                    what the plugin and its engine said
    training/0.csv, 1.csv, ...   mean loss by epoch of each training that the plugin did
    files/                       what the plugin wanted to keep beside the model, if anything
    measurements/<digest>/       metrics.json, and results/comp4_det_<set>_<class>.txt with the scored detections

A measurement's digest covers what is measured and on which images, so that another runtime or image set is measured
without making the model again.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from detpress.detector import images
from detpress.detector.architecture import Architecture
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.detector.promises import check_layers
from detpress.doors import version
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.engine_log import standard_output_into
from detpress.errors import DetpressError, InputError, NotInstalledError, StageError, no_room
from detpress.measure.metrics import measure_model
from detpress.measure.scoring import protocol_id
from detpress.recipe.file import Recipe
from detpress.run.keys import chosen
from detpress.run.store import Store, digest
from detpress.run.workbench import StageWorkbench
from detpress.training.process import seeded
from detpress.voc.devkit import Devkit

MEASUREMENT_VERSION = 3  # raised when a measurement has other figures than before


class Listener(Protocol):
    """Is told how a run goes on."""

    def begin(self, index: int, total: int, name: str) -> None:
        """Stage `index` of `total` begins: it is looked up, made if need be, and measured."""

    def waiting(self) -> None:
        """Another process is making this stage; this one waits for it."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` steps of `what` are done."""

    def end(self, stage: "Stage") -> None:
        """The stage is there, with its measurements."""


@dataclass(frozen=True)
class Stage:
    """One finished stage.

    folder: where the store keeps it.
    reused: whether it was there before.
    seconds: what making it took, without measuring, whenever that was.
    """

    index: int
    plugin: str
    form: Form
    key: str
    folder: Path
    reused: bool
    seconds: float
    notes: list[str]  # what the plugin has to tell a person
    metrics: dict[str, Any]
    detections: Path  # the folder with the scored `comp4_det_*` files

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    def as_dict(self) -> dict[str, Any]:
        """The shape that results.json documents."""
        return {
            "index": self.index,
            "plugin": self.plugin,
            "form": self.form,
            "key": self.key,
            "bundle": str(self.bundle),
            "reused": self.reused,
            "seconds": self.seconds,
            "notes": self.notes,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class StageMaker:
    """Makes and measures the stages of one run."""

    recipe: Recipe
    devkit: Devkit
    architecture: Architecture
    store: Store
    listener: Listener
    split: str  # the image set that stages are scored on
    # By key, the model of one stage as it was read from its bundle: is measured, and what the next stage is made of.
    _read_back: dict[str, Model] = field(default_factory=dict)

    def stage(self, index: int, name: str, key: str, make: Callable[[StageWorkbench], Model]) -> Stage:
        """The stage `key`, from the store or by `make`.

        Raises StageError where `make` fails; its log stays in the scratch folder that the message names.
        """
        reused = self.made(name, key, make)
        stage = find_stage(index, name, key, self._measure(key), self.store)
        assert stage is not None
        stage = replace(stage, reused=reused)
        self.listener.end(stage)
        return stage

    def made(self, name: str, key: str, make: Callable[[StageWorkbench], Model]) -> bool:
        """Has the stage `key` made, but not measured; whether the store had it. Raises StageError as `stage` does."""
        reused = self._fault(key) is None
        if not reused:
            with self.store.lock(key, self.listener.waiting):
                fault = self._fault(key)
                reused = fault is None  # made by the process that held the lock
                if not reused:
                    if self.store.stage(key).exists():
                        self.store.put_aside(self.store.stage(key), str(fault))
                    self._make(name, key, make)
        if reused:
            self.store.share(key)  # it may have been made before there was a shared store
        self.store.touch(key)
        return reused

    def take_model(self, key: str) -> Model:
        """The model of the finished stage `key`, the caller's to change. Raises InputError where it cannot be read."""
        return self._read_back.pop(key, None) or load_bundle(self.store.stage(key) / "bundle")

    def _fault(self, key: str) -> str | None:
        """Why the store has no such stage, or none that is of use; None where it has."""
        if not self.store.has(key):
            return "it cannot be read"
        try:
            self._remember(key, load_bundle(self.store.stage(key) / "bundle"))
        except NotInstalledError:  # the stage may be whole: nothing is put aside for it
            raise
        except InputError as error:
            return str(error)
        return None

    def _remember(self, key: str, model: Model) -> None:
        self._read_back.clear()
        self._read_back[key] = model

    def _make(self, name: str, key: str, make: Callable[[StageWorkbench], Model]) -> None:
        scratch = self.store.scratch(key)
        unfinished = scratch / "stage"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        recipe = self.recipe
        with log_file(key, scratch / "stage.log") as log:
            workbench = StageWorkbench(
                recipe.seed,
                scratch,
                log,
                self.listener.progress,
                self.devkit,
                self.architecture,
                recipe.data,
                recipe.measure,
                files=unfinished / "files",
            )
            started = time.perf_counter()
            with (
                (scratch / "stage.log").open("ab") as printed,
                _engine_errors_named(name, scratch / "stage.log", log),
                standard_output_into(printed.fileno()),
            ):
                with seeded(recipe.seed):
                    model = make(workbench)
                seconds = time.perf_counter() - started
                self._remember(key, _save(model, unfinished / "bundle"))
        (scratch / "stage.log").rename(unfinished / "stage.log")
        for table in scratch.glob("fit-*/training.csv"):
            (unfinished / "training").mkdir(exist_ok=True)
            table.rename(unfinished / "training" / f"{table.parent.name.removeprefix('fit-')}.csv")
        record = {
            "plugin": name,
            "form": model.form,
            "seconds": round(seconds, 3),
            "threads": torch.get_num_threads(),
            "notes": list(model.notes),
            "figures": workbench.figures,
        }
        (unfinished / "stage.json").write_text(json.dumps(record))
        self.store.finish(key, unfinished)

    def _measure(self, key: str) -> str:
        """The digest of the measurement that the recipe asks for, which is made now if it is not there."""
        recipe, store = self.recipe, self.store
        measured = measurement_digest(recipe, self.devkit, self.split)
        if not store.has_measurement(key, measured):
            with store.lock(f"{key}.measure", self.listener.waiting):
                if not store.has_measurement(key, measured):
                    unfinished = store.scratch(f"{key}.measure") / "measurement"
                    shutil.rmtree(unfinished, ignore_errors=True)
                    unfinished.mkdir()
                    bundle = store.stage(key) / "bundle"
                    with standard_output_into(2):
                        metrics = measure_model(
                            self._read_back.get(key) or load_bundle(bundle),
                            bundle,
                            self.devkit,
                            self.split,
                            recipe.measure,
                            unfinished / "results",
                            self.listener.progress,
                        )
                    (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=1))
                    store.finish_measurement(key, measured, unfinished)
        else:
            store.share(key, measured)
        return measured


def _save(model: Model, folder: Path) -> Model:
    """The model as it is read back. Raises StageError where it cannot be: it would never be of use."""
    try:
        save_bundle(model, folder)
        read_back = load_bundle(folder)
        check_layers(read_back.network)
    except (InputError, ValueError, RuntimeError) as error:
        raise StageError(f"gave a model that no bundle can hold: {error}") from error
    return read_back


def measurement_digest(recipe: Recipe, devkit: Devkit, split: str) -> str:
    """Names what is measured, on the images of which set and by which versions."""
    return digest(
        {
            "figures": MEASUREMENT_VERSION,
            "protocol": protocol_id(recipe.measure),
            "measure": chosen(recipe.measure, {"max_map_loss", "max_detections"}),  # the protocol has the latter
            "images": images.VERSION,
            "data": devkit.fingerprint([split]),
            "runtimes": {name: version(name) for name in ("torch", "onnxruntime", "openvino")},
        }
    )


def find_stage(index: int, name: str, key: str, measured: str, store: Store) -> Stage | None:
    """The stage `key` with its measurement `measured`, if the store has both."""
    if not store.has_measurement(key, measured):
        return None
    folder, measurement = store.stage(key), store.measurement(key, measured)
    record = json.loads((folder / "stage.json").read_text())
    metrics = json.loads((measurement / "metrics.json").read_text())
    if figures := record.get("figures"):
        metrics["plugin"] = figures
    form, seconds, notes = Form(record["form"]), record["seconds"], record.get("notes", [])
    return Stage(index, name, form, key, folder, True, seconds, notes, metrics, measurement / "results")


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """What a plugin sets in PyTorch for the whole process is set back, so that it decides nothing of later stages."""
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic, precision = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
        torch.set_grad_enabled(gradients)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_float32_matmul_precision(precision)


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
def _engine_errors_named(name: str, path: Path, log: logging.Logger) -> Iterator[None]:
    """Whatever an engine raises becomes one line that names the plugin; the traceback goes to the log."""
    try:
        yield
    except DetpressError as error:
        log.error("%s", error)
        raise type(error)(f"{name}: {_own_words(error)}") from error
    except SystemExit as error:  # otherwise the whole program would end here, perhaps with an exit code of 0
        log.exception("%s failed", name)
        raise StageError(f"{name} failed: it asked the program to exit ({error.code}); see {path}") from error
    except Exception as error:
        if no_room(error):
            raise
        log.exception("%s failed", name)
        first_line = _own_words(error).splitlines()[0]
        raise StageError(f"{name} failed: {type(error).__name__}: {first_line}; see {path}") from error


def _own_words(error: Exception) -> str:
    """The message; where it is the traceback of another process, as PyTorch hands it on, what was raised there."""
    try:
        message = str(error).strip() or "no message"
    except Exception:  # a stranger's error may have no words
        return "its message cannot be read"
    return message.splitlines()[-1].partition(": ")[2] if "Traceback (most recent call last)" in message else message
