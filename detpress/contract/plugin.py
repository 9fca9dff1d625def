"""The contract between detpress and a compression technique.

A plugin is a class with a typed `Config`, the forms of model it `accepts` and `returns`, and `apply`. It is found by
the entry-point group `detpress.plugins`; the name of the entry point is the name used in recipes. The model goes in
one form and comes out in another, and a recipe is refused before anything is computed where the forms do not fit:

    nni.l1norm      dense  -> masked
    nni.speedup     masked -> dense
    inc.static_int8 dense  -> int8

Importing a plugin must be cheap (no torch, no engine at module level): `detpress plugins` imports them all.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from detpress.detector.form import Form
from detpress.options import Options, bundles_in, parts_of
from detpress.training.config import TrainingOptions, check_training
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    import logging

    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model
    from detpress.training.config import TrainingConfig
    from detpress.training.dataset import TrainingSet
    from detpress.training.objective import Objective
    from detpress.voc.evaluate import Score


@dataclass(frozen=True)
class Plan:
    """What a plugin would do: the names of the layers it touches, and the model that would come out.

    The model's form, masks and shapes are what counts: `detpress validate` reads the parameters left from it and hands
    it to the next plugin's `plan`. Its weights may be those of a model never trained. `note` says what cannot be known
    yet.
    """

    layers: tuple[str, ...]
    model: "Model"
    note: str = ""


class Workbench(Protocol):
    """All that a plugin may use of the world."""

    seed: int
    device: "torch.device"
    scratch: Path  # a folder of this stage's own, kept when the stage is killed and deleted when it is done
    log: "logging.Logger"  # the stage's log file

    @property
    def progress(self) -> Callable[[str, int, int], None]:
        """To be called with what is being done, the steps done, and the steps in all."""

    def fit(
        self,
        model: "Model",
        training: "TrainingConfig",
        objectives: "tuple[Objective, ...]" = (),
    ) -> "Model":
        """Trains a copy of `model` on the training split, its masks held. The one trainer.

        objectives: what is learnt beside the detection loss or instead of it, and snapshots of the way there.
        """

    def train(
        self,
        network: "nn.Module",
        architecture: "Architecture",
        training: "TrainingConfig",
        objectives: "tuple[Objective, ...]" = (),
        optimizer: "Optimizer | None" = None,
    ) -> None:
        """The same trainer for what is no `Model` yet: a network that an engine has prepared, trained in place.

        optimizer: over its parameters, instead of the ordinary one.
        """

    def steps_per_epoch(self, training: "TrainingConfig") -> int:
        """Steps of the optimizer in one pass over the training split."""

    def evaluate(self, model: "Model", split: str = "val") -> "Score":
        """mAP (a float, a fraction) by the recipe's protocol, an int8 model's in the runtime that the recipe scores it
        in; `.evaluation.ap` has it by class. The test split is refused.
        """

    def gradients(
        self, model: "Model", images: int, or_fewer: bool = False, squared: bool = False
    ) -> "dict[str, Tensor]":
        """Parameter name -> gradient of the detector's loss, the mean over that many training images drawn by the seed.

        Without augmentation and with BatchNorm's running statistics, so that the same model has the same gradients.
        or_fewer: see `calibration`. squared: the mean of the squares of each image's own gradient instead, the diagonal
        of the empirical Fisher information.
        """

    def latency_ms(self, model: "Model", runtime: str) -> float:
        """Median of the network alone, with the recipe's threads and batch; measured now, on this CPU."""

    def training_set(self, architecture: "Architecture", split: str = "train") -> "TrainingSet":
        """Images and objects of `train` or `val` at this input size, for an engine that trains by itself."""

    def calibration(self, images: int, or_fewer: bool = False) -> "Tensor":
        """That many training images, drawn by the seed: float32 (images, 3, H, W) in [0, 1], as the model takes them.

        or_fewer: all there are where these are fewer, which the stage's notes say; otherwise InputError is raised.
        """

    def load(self, name_or_path: str) -> "Model":
        """The model of a bundle that `Plugin.bundles` gives: a shipped one (`builtin:digits`) or a folder.

        Raises InputError for another one, which would decide the result without being in the stage's key.
        """

    def remember(self, key: dict[str, Any], compute: Callable[[Path], None]) -> Path:
        """The folder that `compute(folder)` filled, kept on disk: computed once for `key`, also across kills."""

    def remember_model(self, key: dict[str, Any], compute: "Callable[[], Model]") -> "Model":
        """The model that `compute` gave, kept on disk as `remember` keeps a folder."""

    def in_environment(self, function: str, **arguments: Any) -> Any:
        """What `function`, such as `my_package.inside:quantize`, gives where the plugin's `requirements` are installed.

        It is called there as `quantize(progress, **arguments)`. Arguments, and what it gives, are plain data (paths
        become text); all else goes by files. Its file is imported alone, by a Python that knows neither detpress nor
        torch. Raises StageError for whatever goes wrong there.
        """

    def figure(self, name: str, value: float) -> None:
        """A number of the plugin's own, such as `bits_per_weight`: `plugin.bits_per_weight` in results and studies."""

    def keep(self, name: str) -> Path:
        """Where to write a file that stays with the finished stage, such as a table: `files/NAME` in its folder.

        Raises ValueError for a name with folders in it.
        """


class Plugin(ABC):
    """One named compression technique. Its docstring is its card: what it does, and the citation."""

    Config: ClassVar[type[Options]]
    accepts: ClassVar[frozenset[Form]]
    returns: ClassVar[Form | None]  # None: the form that came in
    unavailable: ClassVar[str | None] = None  # why it can never run here, where that is so; listed, refused in recipes
    engine: ClassVar[str | None] = None  # the distribution that does the work; its version enters the stage's key
    requirements: ClassVar[tuple[str, ...]] = ()  # (PEP 508) of an engine's own environment, see `in_environment`
    version: ClassVar[int] = 1  # raised when the same config gives another result: it enters the stage's key
    resizes: ClassVar[bool] = False  # whether what comes out may take images of another size
    chooses_by_map: ClassVar[bool] = False  # by `bench.evaluate` of int8 models: the runtime they are scored in, too

    def plan(self, model: "Model", config: Any) -> Plan | None:
        """What `apply` would do, without data and without training; None where that is not known before.

        Raises InputError for options that do not fit the model, such as a pattern that matches no layer.
        """
        return None

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        """Holds the options against the model that will come in, and against the data set.

        Called before anything is computed; the model is what the plans tell of it. Raises InputError, its text
        beginning with the option that is wrong and a colon. By default the training, if any, is checked.
        """
        check_training(config, model.architecture, images)

    def bundles(self, config: Any) -> tuple[str, ...]:
        """Bundles whose contents enter the stage's key: by default, all that the options name (`BundleName`)."""
        return tuple(name for _, name in bundles_in(config))

    def trains(self, config: Any) -> bool:
        """Whether the model learns its task here: by default, where the options hold those of a training."""
        return any(isinstance(part, TrainingOptions) for _, part in parts_of(config))

    def repeats(self, config: Any) -> bool:
        """Whether the same options give the same model again; not where a limit of time or a latency decides."""
        return True

    @abstractmethod
    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        """The compressed model. `model` itself is left as it was.

        Raises StageError where the engine failed or changed nothing.
        """
