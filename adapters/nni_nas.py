"""The bridge to NNI 3.0's architecture search: its strategies and engine run in this process, without its service.

Two ways, with NNI's own classes in both:

- `run_trials`: a strategy draws one network after another from a space of plain choices, and is told how good each is;
- `train_supernet`: a network that holds every candidate of every block is trained once, together with what chooses
  among them, by Lightning.

NNI's experiment, which writes to the home folder and may open a web port, is not used: a strategy takes a space and an
engine, and that is all that is needed.
"""

import contextlib
import io
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from detpress.detector.architecture import Architecture
from detpress.detector.images import network_input
from detpress.detector.network import Network, run_layers
from detpress.engine_log import engine_messages
from detpress.errors import InputError, StageError
from detpress.training.config import TrainingConfig
from detpress.training.dataset import Sample, collate
from detpress.training.loss import Targets, yolo_loss
from detpress.training.process import deterministic

# Tianshou, of the extra `rl`, imports gym, which advertises its successor on stderr.
with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter("ignore")
    import nni
    from nni.mutable import Categorical, MutableDict, SampleValidationError
    from nni.nas import strategy as strategies
    from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.nn.pytorch import LayerChoice, ModelSpace
    from nni.nas.oneshot.pytorch.sampling import RandomSamplingLightningModule
    from nni.nas.space import ExecutableModelSpace, ModelStatus, RawFormatModelSpace

MOST_DRAWS = 100_000  # for a network within the budgets: NNI gives up after 100, at any step of the training
LOGGERS = ("nni", "pytorch_lightning", "lightning.pytorch", "lightning.fabric")


class _Choices(ExecutableModelSpace):  # type: ignore[misc]
    """A space of plain choices; a frozen one is executed by asking `judge` how good it is."""

    def __init__(self, mutables: Any, judge: Callable[[dict[str, Any]], float]) -> None:
        super().__init__()
        self.mutables, self.judge = mutables, judge
        self.evaluator = None
        self.sample: dict[str, Any] | None = None

    def freeze(self, sample: dict[str, Any]) -> "_Choices":
        self.validate(sample)
        frozen = _Choices(self.mutables, self.judge)
        frozen.status, frozen.sample = ModelStatus.Frozen, dict(sample)
        return frozen

    def check_contains(self, sample: dict[str, Any]) -> SampleValidationError | None:
        return self.mutables.check_contains(sample)

    def leaf_mutables(self, is_leaf: Any) -> Iterator[Any]:
        yield from self.mutables.leaf_mutables(is_leaf)

    def extra_repr(self) -> str:
        return f"sample={self.sample}"

    def execute(self) -> None:
        assert self.sample is not None
        nni.report_final_result(self.judge(self.sample))


class _Engine(SequentialExecutionEngine):  # type: ignore[misc]
    """NNI's sequential engine, which goes on until `enough` says so."""

    def __init__(self, enough: Callable[[], bool]) -> None:
        super().__init__()
        self.enough = enough

    def budget_available(self) -> bool:
        return not self.enough()


def run_trials(
    name: str,
    options: Mapping[str, Any],
    choices: Mapping[str, Sequence[Any]],
    judge: Callable[[dict[str, Any]], float],
    enough: Callable[[], bool],
    seed: int,
    log: logging.Logger,
) -> None:
    """Has the strategy draw samples, label -> one of its choices, until it ends or there are enough.

    judge: how good a sample is, the larger, the better. What it draws from the global generators is put back, so that
    a strategy that draws from them, too, goes on alike whether a trial was made or remembered.
    """

    def undisturbed(sample: dict[str, Any]) -> float:
        with torch.random.fork_rng(devices=[]), _global_generators_put_back():
            return judge(sample)

    with engine_messages(log, *LOGGERS), torch.random.fork_rng(devices=[]), _global_generators_put_back():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        strategy = _trial_strategy(name, options, seed)
        mutables = {label: Categorical(list(values), label=label) for label, values in choices.items()}
        strategy(_Choices(MutableDict(mutables), undisturbed), _Engine(enough))


def _trial_strategy(name: str, options: Mapping[str, Any], seed: int) -> Any:
    match name:
        case "random":
            return strategies.Random(seed=seed)
        case "grid":
            return strategies.GridSearch(shuffle=False)
        case "evolution":
            return strategies.RegularizedEvolution(
                population_size=options["population"],
                sample_size=options["tournament"],
                mutation_prob=options["mutation"],
                seed=seed,
            )
        case "tpe":
            return strategies.TPE("maximize", seed, {"n_startup_jobs": options["population"]})
    _need_tianshou(name)
    return strategies.PolicyBasedRL(samples_per_update=options["population"])


def _need_tianshou(name: str) -> None:
    try:
        import tianshou  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"strategy: {name} needs the extra `rl`, which is not installed: pip install 'detpress[rl]'"
        ) from error


class Supernet(ModelSpace):  # type: ignore[misc]
    """A detector of which some layers are choices between candidates.

    candidates: layer number -> label of the choice, and name -> module of each candidate.
    """

    def __init__(self, architecture: Architecture, candidates: Mapping[int, tuple[str, dict[str, nn.Module]]]) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = Network(architecture).layers
        for i, (label, modules) in candidates.items():
            self.layers[i] = LayerChoice(modules, label=label)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return run_layers(self.architecture, self.layers, images)


class SupernetTraining(LightningModule):  # type: ignore[misc]
    """The detector's own loss as NNI's one-shot strategies want it, and AdamW at a constant learning rate."""

    def __init__(self, architecture: Architecture, config: TrainingConfig, report: Callable[[int], None]) -> None:
        super().__init__()
        self.architecture, self.config, self.report = architecture, config, report

    def _loss(self, batch: tuple[Tensor, Targets]) -> Tensor:
        images, targets = batch
        loss = yolo_loss(self.model(network_input(images)), targets, self.architecture, self.config).total
        if not torch.isfinite(loss):
            raise StageError("the loss of the supernet is not finite: try a lower learning_rate")
        return loss

    def training_step(self, batch: Any, step: int) -> Tensor:
        self.report(self.trainer.current_epoch)
        return self._loss(batch)

    def validation_step(self, batch: Any, step: int) -> None:
        with torch.no_grad():
            self.log("default", -self._loss(batch), on_step=True, on_epoch=False, batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )


def train_supernet(
    name: str,
    architecture: Architecture,
    candidates: Mapping[int, tuple[str, dict[str, nn.Module]]],
    config: TrainingConfig,
    train: Dataset[Sample],
    val: Dataset[Sample],
    architecture_rate: float,
    feasible: Callable[[dict[str, str]], bool],
    seed: int,
    scratch: Path,
    report: Callable[[int], None],
    log: logging.Logger,
) -> tuple[dict[str, str], Callable[[dict[str, str]], nn.Module]]:
    """What the strategy chose, label -> name of a candidate, and the trained supernet with given choices.

    architecture, candidates: the supernet, see `Supernet`.
    train, val: what the weights and what the choices are trained on.
    feasible: which choices `random_one_shot` may draw while it trains.
    """
    with (
        engine_messages(log, *LOGGERS),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        _global_generators_put_back(),
        deterministic() if torch.cuda.is_available() else contextlib.nullcontext(),
    ):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        strategy = _one_shot_strategy(name, architecture_rate, config.clip, feasible)
        trainer = Trainer(
            max_epochs=config.epochs,
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=1,
            default_root_dir=scratch,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            gradient_clip_val=config.clip if name == "random_one_shot" else None,
        )
        loaders = [
            DataLoader(
                data,
                min(config.batch_size, len(data)),  # type: ignore[arg-type]
                shuffle=True,
                drop_last=True,
                collate_fn=collate,
                generator=torch.Generator().manual_seed(seed),
            )
            for data in (train, val)
        ]
        supernet = Supernet(architecture, candidates)
        evaluator = Lightning(SupernetTraining(architecture, config, report), trainer, *loaders)
        strategy(RawFormatModelSpace(supernet, evaluator), SequentialExecutionEngine())
        strategy.oneshot_module.set_model(strategy.supernet)
        chosen = dict(strategy.oneshot_module.export())

    def with_choices(choices: dict[str, str]) -> nn.Module:
        for module in strategy.oneshot_module.supernet_modules():
            module.resample(memo=dict(choices))
        network = strategy.supernet
        assert isinstance(network, nn.Module)
        return network

    return chosen, with_choices


def _one_shot_strategy(
    name: str, architecture_rate: float, clip: float, feasible: Callable[[dict[str, str]], bool]
) -> Any:
    match name:
        case "darts":
            return strategies.DARTS(arc_learning_rate=architecture_rate, gradient_clip_val=clip)
        case "gumbel_darts":
            return strategies.GumbelDARTS(
                arc_learning_rate=architecture_rate, gradient_clip_val=clip, temperature=(1.0, 0.33)
            )
        case "proxyless":
            return strategies.Proxyless(arc_learning_rate=architecture_rate, gradient_clip_val=clip)
        case "random_one_shot":
            RandomSamplingLightningModule._sampling_patience = MOST_DRAWS
            return strategies.RandomOneShot(filter=feasible)
    _need_tianshou(name)
    return _ENAS(batches_per_update=4, reward_metric_name="default")


class _ENAS(strategies.ENAS):  # type: ignore[misc]
    """NNI's loader hands Lightning 2.6 a batch without the mark that tells training from validation batches, which its
    training step then looks for in the batch itself; here every batch carries it."""

    def train_dataloader(self, train: Callable[[], Any], val: Callable[[], Any]) -> Any:
        return _Marked(train(), val())


class _Marked:
    """First all training batches of an epoch, marked so, then all validation batches."""

    def __init__(self, train: Any, val: Any) -> None:
        self.train, self.val = train, val

    def __len__(self) -> int:
        return len(self.train) + len(self.val)

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        yield from ((batch, "train") for batch in self.train)
        yield from ((batch, "val") for batch in self.val)


@contextlib.contextmanager
def _global_generators_put_back() -> Iterator[None]:
    """Python's and NumPy's."""
    outside = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(outside[0])
        np.random.set_state(outside[1])
