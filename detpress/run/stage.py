"""One stage: made once, kept in the store, measured in the same way as every other.

What a finished stage's folder holds:

    bundle/                      the model
    stage.json                   the plugin, the form, the seconds that making it took, on how many threads, and the
                                 versions in its engine's own environment
    stage.log                    what the plugin and its engine said
    training/0.csv, 1.csv, ...   mean loss by epoch of each training that the plugin did
    validation/0.csv, ...        mAP on the validation images after the epochs that were scored
    files/                       what the plugin wanted to keep beside the model, if anything
    measurements/<digest>/       metrics.json, and results/comp4_det_<set>_<class>.txt with the scored detections

A measurement's digest covers what is measured and on which images, so that another runtime or image set is measured
without making the model again.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from detpress.contract.registry import PLUGINS
from detpress.detector import images
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.detector.promises import check_layers
from detpress.doors import distribution_of, version
from detpress.encodings.bundle import load_bundle
from detpress.engine_log import standard_output_into
from detpress.errors import InputError, NotInstalledError
from detpress.measure.metrics import measure_model
from detpress.measure.scoring import protocol_id
from detpress.recipe.file import Recipe
from detpress.run.apart import make_apart
from detpress.run.keys import chosen
from detpress.run.making import Task, Work, make, refused, said
from detpress.run.stage_tables import validation_scores
from detpress.run.store import Store, digest
from detpress.voc.devkit import Devkit

MEASUREMENT_VERSION = 4  # raised when a measurement has other figures, or marks at them, than before


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
    environment: dict[str, str] | None  # versions in the plugin's engine's own environment, by package, if it has one
    notes: list[str]  # what the plugin has to tell a person
    metrics: dict[str, Any]
    detections: Path  # the folder with the scored `comp4_det_*` files

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def validation(self) -> list[tuple[int, float]]:
        """As `validation_scores` has it: pairs of epoch and mAP."""
        return validation_scores(self.folder)

    @property
    def distribution(self) -> str | None:
        """Name and version of the package that brings the plugin: those that made it, for the key has them."""
        return " ".join(distribution_of(self.plugin, PLUGINS.group)) if self.index else None

    def as_dict(self) -> dict[str, Any]:
        """The shape that results.json documents."""
        return {
            "index": self.index,
            "plugin": self.plugin,
            "distribution": self.distribution,
            "environment": self.environment,
            "form": self.form,
            "key": self.key,
            "bundle": str(self.bundle),
            "reused": self.reused,
            "seconds": self.seconds,
            "notes": self.notes,
            "validation": self.validation,
            "metrics": self.metrics,
        }


@dataclass(frozen=True)
class StageMaker:
    """Makes and measures the stages of one run."""

    recipe: Recipe
    devkit: Devkit
    store: Store
    listener: Listener
    split: str  # the image set that stages are scored on
    # By key, the model of one stage as it was read from its bundle: is measured, and what the next stage is made of.
    _read_back: dict[str, Model] = field(default_factory=dict)

    def stage(self, index: int, key: str, work: Work) -> Stage:
        """The stage `key`, from the store or by `work`.

        Raises StageError where the work fails; its log stays in the scratch folder that the message names.
        """
        reused = self.made(key, work)
        stage = find_stage(index, work.plugin, key, self._measure(key), self.store)
        assert stage is not None
        stage = replace(stage, reused=reused)
        self.listener.end(stage)
        return stage

    def made(self, key: str, work: Work) -> bool:
        """Has the stage `key` made, but not measured; whether the store had it. Raises StageError as `stage` does."""
        reused = self._fault(key) is None
        if not reused:
            with self.store.lock(key, self.listener.waiting):
                fault = self._fault(key)
                reused = fault is None  # made by the process that held the lock
                if not reused:
                    if self.store.stage(key).exists():
                        self.store.put_aside(self.store.stage(key), str(fault))
                    self._make(key, work)
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

    def _make(self, key: str, work: Work) -> None:
        recipe = self.recipe
        task = Task(work, self.store.scratch(key), recipe.seed, self.devkit, recipe.data, recipe.measure)
        shutil.rmtree(task.unfinished, ignore_errors=True)
        task.unfinished.mkdir()
        made = (make_apart if work.apart else make)(task, self.listener.progress)
        with said(task):
            model = _read_back(task.bundle)
        self._remember(key, model)
        task.log.rename(task.unfinished / "stage.log")
        _take_tables(task.scratch, task.unfinished)
        record = {"plugin": work.plugin, "form": model.form, "environment": work.environment, **asdict(made)}
        (task.unfinished / "stage.json").write_text(json.dumps(record))
        self.store.finish(key, task.unfinished)

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


def _read_back(bundle: Path) -> Model:
    """The model as every later stage reads it. Raises StageError where it cannot be read."""
    with refused():
        model = load_bundle(bundle)
        check_layers(model.network)
    return model


def _take_tables(scratch: Path, stage: Path) -> None:
    """Those of all trainings, numbered in the order in which they ended; see `StageWorkbench.remember`."""
    trainings = [*scratch.glob("fit-*/training.csv"), *scratch.glob("remembered/*/trainings/fit-*/training.csv")]
    for number, training in enumerate(sorted(trainings, key=lambda path: path.stat().st_mtime_ns)):
        for table in (training, training.with_name("validation.csv")):
            if table.exists():
                (stage / table.stem).mkdir(exist_ok=True)
                table.rename(stage / table.stem / f"{number}.csv")


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
    form, environment, notes = Form(record["form"]), record.get("environment"), record.get("notes", [])
    seconds, detections = record["seconds"], measurement / "results"
    return Stage(index, name, form, key, folder, True, seconds, environment, notes, metrics, detections)
