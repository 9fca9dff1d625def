"""The bridge to training: whatever trains in NNI trains by the workbench's one trainer.

NNI's compressors call an `Evaluator`, which owns optimizer and training step, so that they can patch both: masks are
made after a step of the optimizer, penalties are added to the loss. Its `LightningEvaluator` fails on current
Lightning, so its `TorchEvaluator` hands the patched parts to `bench.train`, as an objective and an optimizer:

    network = copy.deepcopy(model.network).requires_grad_(True)
    evaluator = WorkbenchEvaluator(network, model.architecture, config.training, bench)
    pruner = TaylorPruner(network, config_list, evaluator, evaluator.steps)
    _, masks = pruner.compress()                # trains `network`, wrapped, for all of the training's epochs
    pruner.unwrap_model()
    trained = without_wrappers(network, model.architecture)

Give NNI one config a layer: it goes through the layers of one config in an order that changes from process to
process, and so would the sums over them.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from detpress.adapters.engine_version import expect_version
from detpress.contract.plugin import Workbench
from detpress.detector.architecture import Architecture
from detpress.detector.network import Network
from detpress.errors import StageError
from detpress.training.config import TrainingConfig
from detpress.training.detection import Detection
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep, total
from detpress.training.parts import at_backbone_rate
from detpress.training.step import new_optimizer, parameters_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    import nni
    from nni.compression.base.compressor import Compressor
    from nni.compression.utils.evaluator import TorchEvaluator

expect_version("nni", "3.0", "what it keeps between steps is read out of its closures")

Task = Callable[..., Any]


class WorkbenchEvaluator(TorchEvaluator):  # type: ignore[misc]  # NNI has no types
    """An NNI evaluator that trains by `bench.train`, for the epochs that `training` says, no more and no fewer.

    network: the one that the compressor will be given, before it is wrapped, its parameters requiring gradients.

    What NNI keeps outside the network (counters, collected gradients, optimizers of its own, layers that it adds) is
    found in the patches that it makes, and goes into the checkpoints; so a killed training goes on with the same bits.
    """

    def __init__(
        self, network: nn.Module, architecture: Architecture, training: TrainingConfig, bench: Workbench
    ) -> None:
        self.architecture = architecture
        self.training = training
        self.bench = bench
        self._patches: list[Task] = []
        self._objective = NNIObjective()
        slower = at_backbone_rate(network, architecture, training)
        optimizer = new_optimizer(network.parameters(), training, nni.trace(AdamW), slower)
        super().__init__(self._train, optimizer, self._objective.detection_loss)
        self._init_optimizer_helpers(network)  # at once: a schedule's inner pruner wraps the network before NNI would

    @property
    def steps(self) -> int:
        """Steps of the optimizer in the whole training."""
        return self.training.epochs * self.bench.steps_per_epoch(self.training)

    def patch_loss(self, patch: Task) -> None:
        self._patches.append(patch)
        self._objective.is_patched = True
        super().patch_loss(patch)

    def patch_optimizer_step(self, before_step_tasks: list[Task], after_step_tasks: list[Task]) -> None:
        self._patches += [*before_step_tasks, *after_step_tasks]
        super().patch_optimizer_step(before_step_tasks, after_step_tasks)

    def _train(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        step: Callable[..., tuple[Tensor, Terms]],
        schedules: None,
        max_steps: int | None,
        max_epochs: int | None,
    ) -> None:
        if max_steps not in (None, self.steps) or max_epochs not in (None, self.training.epochs):
            raise StageError(
                f"NNI asked for {max_steps} steps or {max_epochs} epochs of training; "
                f"{self.steps} steps in {self.training.epochs} epochs were planned"
            )
        state = _StateOutsideNetwork(self, network, optimizer)
        if left := state.untrained():
            raise StageError(f"NNI's optimizers leave out {len(left)} parameters, {left[0]} among them")
        self._objective.step, self._objective.outside = step, state
        self.bench.train(network, self.architecture, self.training, (self._objective,), optimizer)


class NNIObjective(Objective):
    """The detection loss, and what NNI makes of it: the term `nni` is what it adds.

    step: the training step that NNI has patched around `detection_loss`. outside: what NNI keeps outside the network.
    """

    replaces = Detection.TERMS

    def __init__(self) -> None:
        super().__init__()
        self.detection = Detection()
        self.is_patched = False
        self.step: Callable[..., tuple[Tensor, Terms]]
        self.outside: _StateOutsideNetwork
        self.now: TrainingStep

    def prepare(self, start: TrainingStart) -> None:
        self.detection.prepare(start)

    def detection_loss(self, batch: Any, network: nn.Module) -> tuple[Tensor, Terms]:
        """What NNI takes for the training step: the loss of the batch that the network has just seen, and its terms."""
        terms = self.detection.terms(self.now)
        return total(terms), terms

    def terms(self, step: TrainingStep) -> Terms:
        self.now = step
        loss, terms = self.step((step.images, step.targets), step.network)
        del self.now
        if not self.is_patched:
            return terms
        own = {name: term.detach() for name, term in terms.items()}
        return {**own, "nni": loss - total(own)}

    def state(self) -> dict[str, Any]:
        return self.outside.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.outside.load(state)


class _StateOutsideNetwork:
    """What NNI changes while it trains and does not keep in the network."""

    def __init__(self, evaluator: WorkbenchEvaluator, network: nn.Module, optimizer: Optimizer) -> None:
        caught = [thing for patch in evaluator._patches for thing in _captured_by(patch)]
        self.compressors = _unique(caught, Compressor)
        self.optimizers = _unique(caught, Optimizer)
        self.buffers: list[list[Tensor]] = [hook.buffer for hook in evaluator.get_all_hooks()]
        own = {id(parameter) for parameter in network.parameters()}
        self.network = network
        self.trained = parameters_of(optimizer)
        self.added = [parameter for parameter in self.trained if id(parameter) not in own]

    def untrained(self) -> list[str]:
        """Names of the parameters that no optimizer changes: a mistake in handing them over would train nothing."""
        trained = {id(parameter) for optimizer in self.optimizers for parameter in parameters_of(optimizer)}
        trained |= {id(parameter) for parameter in self.trained}
        return [name for name, parameter in self.network.named_parameters() if id(parameter) not in trained]

    def state(self) -> dict[str, Any]:
        return {
            "compressors": [_counters(compressor) for compressor in self.compressors],
            "targets": [[_plain(space._setting) for space in _spaces(compressor)] for compressor in self.compressors],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "buffers": [list(buffer) for buffer in self.buffers],
            "added": [parameter.detach() for parameter in self.added],
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        for compressor, counters, targets in zip(self.compressors, state["compressors"], state["targets"], strict=True):
            vars(compressor).update(counters)
            for space, setting in zip(_spaces(compressor), targets, strict=True):
                space._setting.update(setting)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        device = next(self.network.parameters()).device
        for buffer, tensors in zip(self.buffers, state["buffers"], strict=True):
            buffer[:] = [tensor.to(device) for tensor in tensors]  # in place: NNI's hooks hold this very list
        for parameter, saved in zip(self.added, state["added"], strict=True):
            parameter.copy_(saved)


def _captured_by(function: Task) -> list[Any]:
    """The object whose method `function` is, and what it has closed over."""
    return [getattr(function, "__self__", None), *(cell.cell_contents for cell in function.__closure__ or ())]


def _unique(things: list[Any], kind: type) -> list[Any]:
    return list({id(thing): thing for thing in things if isinstance(thing, kind)}.values())


def _spaces(compressor: Any) -> list[Any]:
    return [space for targets in compressor._target_spaces.values() for space in targets.values()]


def _counters(compressor: Any) -> dict[str, Any]:
    return _plain(vars(compressor))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if type(value) in (bool, int, float, str)}


def without_wrappers(network: nn.Module, architecture: Architecture) -> Network:
    """A network of the shared kind with the weights of one that NNI has wrapped, trained and unwrapped again.

    An unwrapped module still has NNI's `forward` on it; nothing but tensors is taken over.
    """
    tensors = network.state_dict()
    with torch.device("meta"):
        clean = Network(architecture)
    clean.load_state_dict({name: tensors[name] for name in clean.state_dict()}, assign=True)
    return clean.eval().requires_grad_(True)
