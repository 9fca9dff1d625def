"""The workbench of one stage: what `detpress.contract.plugin.Workbench` promises, over a real data set and folder."""

import copy
import logging
import math
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detpress.builtin import find_bundle
from detpress.detector.architecture import Architecture
from detpress.detector.images import network_input, read_squares
from detpress.detector.model import Model
from detpress.detector.predict import BATCH, Run
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.environments import Environment
from detpress.environments.calling import call
from detpress.errors import InputError, StageError, shortened
from detpress.measure.latency import measure_latency
from detpress.measure.scoring import score, scoring_runtime
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.store import digest, remember
from detpress.runtimes.opening import open_runtime
from detpress.runtimes.runtime import Runtime
from detpress.training.config import TrainingConfig, chooses_best
from detpress.training.dataset import TrainingSet, collate
from detpress.training.loss import yolo_loss
from detpress.training.objective import Objective
from detpress.training.step import steps_per_epoch
from detpress.training.trainer import TrainingContext, fit, train
from detpress.voc.devkit import Devkit, check_boxes
from detpress.voc.evaluate import Score


@dataclass
class StageWorkbench:
    """See `detpress.contract.plugin.Workbench` for what each part promises."""

    seed: int
    scratch: Path
    log: logging.Logger
    progress: Callable[[str, int, int], None]
    devkit: Devkit  # the image set that the result is scored on is hidden
    data: Data
    measure: Measure
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    architecture: Architecture | None = None  # of the model that the plugin is given
    files: Path | None = None  # see `keep`
    notes: list[str] = field(default_factory=list)  # what a person should be told of how the stage went
    bundles: tuple[str, ...] = ()  # those that the plugin's options name: what they hold is in the stage's key
    environment: Environment | None = None  # the plugin's
    memory: float | None = None  # GB that may be asked for there
    figures: dict[str, float] = field(default_factory=dict)  # the plugin's own, see `figure`
    _fits: int = 0
    _remembering: str = ""  # below scratch, where the trainings of what is being remembered lie

    def __post_init__(self) -> None:
        """The test set is hidden, unless the recipe has it trained on, or chosen by, all the same."""
        if self.data.test not in (self.data.train, self.data.val):
            self.devkit = self.devkit.hiding(self.data.test)

    def fit(
        self,
        model: Model,
        training: TrainingConfig,
        objectives: tuple[Objective, ...] = (),
    ) -> Model:
        scored = chooses_best(training) or self._has_unseen_images()
        return fit(model, training, self._training_context(), objectives, self.evaluate if scored else None)

    def train(
        self,
        network: nn.Module,
        architecture: Architecture,
        training: TrainingConfig,
        objectives: tuple[Objective, ...] = (),
        optimizer: Optimizer | None = None,
    ) -> None:
        train(network, architecture, training, self._training_context(), objectives, optimizer)

    def _training_context(self) -> TrainingContext:
        """The data, and a folder of its own for each training of the stage: the same one after a kill."""
        bad = check_boxes(self.devkit.image_set(self.data.train), self.data.bad_boxes)
        for annotation, index in bad:
            self.log.warning("%s left out: no area, or off the image", annotation.place(index))
        if bad:
            self.log.warning("%d boxes left out", len(bad))
        annotations = self.devkit.image_set(self.data.train)
        learnt = sum(bool(annotation.learnt.any()) for annotation in annotations)
        if not learnt:
            raise InputError(f"the image set '{self.data.train}' of {self.devkit.root} holds no object to learn")
        self.log.info("training images: %d with objects to learn, %d without", learnt, len(annotations) - learnt)
        folder = self.scratch / self._remembering / f"fit-{self._fits}"
        self._fits += 1
        folder.mkdir(parents=True, exist_ok=True)
        return TrainingContext(
            self.devkit, self.data.train, self.seed, folder, self.log, self.progress, self.note, self.load
        )

    def _has_unseen_images(self) -> bool:
        """Whether there are validation images, and none of them is trained on."""
        if self.data.val not in self.devkit.image_set_names:
            return False
        train, val = ({a.key for a in self.devkit.image_set(name)} for name in (self.data.train, self.data.val))
        return train.isdisjoint(val)

    def steps_per_epoch(self, training: TrainingConfig) -> int:
        return steps_per_epoch(len(self.devkit.image_set(self.data.train)), training)

    def evaluate(self, model: Model, split: str = "val") -> Score:
        name = self.data.val if split == "val" else split
        runtime = scoring_runtime(model.form, list(self.measure.runtimes))
        run = self._run_here(model.network) if runtime == "torch" else self._open(runtime, model).run
        return Score(score(run, model.architecture, self.devkit, name, self.measure)[0])

    def gradients(self, model: Model, images: int, or_fewer: bool = False, squared: bool = False) -> dict[str, Tensor]:
        chosen = self._drawn(images, or_fewer, "images")
        data = TrainingSet(self.devkit, self.data.train, model.architecture)
        network = copy.deepcopy(model.network).to(self.device).eval().requires_grad_(True)
        config = TrainingConfig(epochs=1)
        found: dict[str, Tensor] = {}
        size = 1 if squared else BATCH
        for start in range(0, len(chosen), size):
            batch = chosen[start : start + size]
            squares, targets = collate([data[i] for i in batch])
            maps = network(network_input(squares.to(self.device)))
            loss = yolo_loss(maps, targets.to(self.device), model.architecture, config).total
            torch.autograd.backward(loss)
            for name, parameter in network.named_parameters():
                if parameter.grad is not None:
                    gradient = parameter.grad.square() if squared else parameter.grad
                    found[name] = found.get(name, 0) + gradient * len(batch) / len(chosen)
            network.zero_grad()
            self.progress("images differentiated", start + len(batch), len(chosen))
        return {name: gradient.cpu() for name, gradient in found.items()}

    def latency_ms(self, model: Model, runtime: str) -> float:
        return float(measure_latency(self._open(runtime, model), model.architecture, self.measure.batch)["median"])

    def _open(self, runtime: str, model: Model) -> Runtime:
        return open_runtime(runtime, model, self.measure.batch, self.measure.threads)

    def _run_here(self, network: nn.Module) -> Run:
        """PyTorch on the device that is trained on, which may be no CPU."""
        copied = copy.deepcopy(network).to(self.device).eval()
        return lambda images: [raw.cpu() for raw in copied(images.to(self.device))]

    def training_set(self, architecture: Architecture, split: str = "train") -> TrainingSet:
        name = {"train": self.data.train, "val": self.data.val}.get(split, split)
        return TrainingSet(self.devkit, name, architecture)

    def calibration(self, images: int, or_fewer: bool = False) -> Tensor:
        assert self.architecture is not None
        annotations = self.devkit.image_set(self.data.train)
        chosen = [annotations[i] for i in self._drawn(images, or_fewer, "calibration images")]
        return read_squares(
            [self.devkit.image_path(annotation) for annotation in chosen],
            self.architecture,
            [annotation.size for annotation in chosen],
        )

    def _drawn(self, images: int, or_fewer: bool, what: str) -> list[int]:
        """Indices of so many training images, drawn by the seed. Raises InputError where there are too few."""
        there = len(self.devkit.image_set(self.data.train))
        if images > there and or_fewer:
            self.note(f"{there} {what}, all there are, instead of {images}")
            images = there
        if images > there:
            raise InputError(
                f"{images} {what} asked for, but the image set '{self.data.train}' of {self.devkit.root} has {there}"
            )
        return random.Random(self.seed).sample(range(there), images)

    def in_environment(self, function: str, **arguments: Any) -> Any:
        if self.environment is None:
            raise StageError("in_environment: the plugin has no `requirements`")
        self.log.info("%s in %s", function, self.environment)
        log = self.scratch / "stage.log"
        try:
            return call(self.environment, function, arguments, self.progress, self.memory, log)
        except StageError as error:
            raise StageError(f"{error}; see {log}") from error

    def figure(self, name: str, value: float) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not math.isfinite(value):
            raise StageError(f"figure {shortened(name)}: expected a name such as bits_per_weight, and a finite number")
        self.figures[name] = float(value)

    def note(self, text: str) -> None:
        """Said in the log and, once, in the stage's record."""
        self.log.info("%s", text)
        if text not in self.notes:
            self.notes.append(text)

    def load(self, name_or_path: str) -> Model:
        folder = find_bundle(name_or_path)
        if folder not in [find_bundle(name) for name in self.bundles]:
            raise InputError(
                f"the plugin loads the bundle {name_or_path}, which its method `bundles` does not give: "
                "expected there, with every option that names a bundle, so that the stage's key has what it holds"
            )
        return load_bundle(folder)

    def remember(self, key: dict[str, Any], compute: Callable[[Path], None]) -> Path:
        def compute_apart(folder: Path) -> None:
            """Trainings of `compute` are numbered by themselves: after a kill, those remembered are not counted."""
            outside = self._remembering, self._fits
            self._remembering, self._fits = f"trainings/{digest(key)}", 0
            try:
                compute(folder)
                trainings = self.scratch / self._remembering
                for table in trainings.glob("fit-*/*.csv"):
                    kept = folder / "trainings" / table.parent.name
                    kept.mkdir(parents=True, exist_ok=True)
                    table.rename(kept / table.name)
                shutil.rmtree(trainings, ignore_errors=True)
            finally:
                self._remembering, self._fits = outside

        return remember(self.scratch / "remembered", key, compute_apart)

    def remember_model(self, key: dict[str, Any], compute: Callable[[], Model]) -> Model:
        def save(folder: Path) -> None:
            save_bundle(compute(), folder / "bundle")

        return load_bundle(self.remember(key, save) / "bundle")

    def keep(self, name: str) -> Path:
        assert self.files is not None
        if name in ("", ".", "..") or Path(name).name != name:
            raise ValueError(f"bench.keep: expected the name of a file, without folders, got {name!r}")
        self.files.mkdir(exist_ok=True)
        return self.files / name
