"""What is learnt in a training: terms of the loss, and what learns them beside the network.

A training has the network and some objectives. The detection loss is one of them, and always there unless others
replace it. In every step the network sees a batch of augmented images once, and then

    the own turn        an objective with an optimizer and a loss of its own (a critic) steps on what the network gave;
    the network's turn  the terms of all objectives are added up, and the network steps on the sum;
    afterwards          whatever else an objective does to the network (masks, clipped weights).

An objective is found by the entry-point group `detpress.objectives`, and named in recipes as a plugin is:

    - train.finetune: {epochs: 8, objectives: [{mine.adversarial: {weight: 0.1}}]}

or it is made by a plugin and given to `bench.fit`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.errors import InputError, StageError, shortened
from detpress.options import NoOptions, Options
from detpress.training.config import TrainingConfig
from detpress.training.loss import Targets

Terms = dict[str, Tensor]  # name -> scalar, already weighted


@dataclass(frozen=True)
class TrainingStart:
    """What an objective is told before the first step.

    network: the one that will be trained, on the CPU. steps: of the whole training. load: the model of a bundle that an
    option names, such as a teacher (`BundleName`).
    """

    network: nn.Module
    architecture: Architecture
    config: TrainingConfig
    steps: int
    seed: int
    log: logging.Logger
    load: Callable[[str], Model]


@dataclass(frozen=True)
class TrainingStep:
    """What an objective sees of a step.

    images: float32 (N, 3, S, S) in [0, 1], augmented. targets: their objects.
    maps: the raw maps that `network` gives of them. outputs: what the layers named in `Objective.layers` gave.
    number: of steps done before this one; steps: of the whole training.
    """

    images: Tensor
    targets: Targets
    network: nn.Module
    maps: Sequence[Tensor]
    outputs: Mapping[str, Tensor]
    number: int
    steps: int

    def detached(self) -> "TrainingStep":
        """The same without the way back into the network."""
        outputs = {name: output.detach() for name, output in self.outputs.items()}
        return replace(self, maps=[raw.detach() for raw in self.maps], outputs=outputs)


def checked_terms(objective: "Objective", found: Any) -> Terms:
    """What `terms` or `own_terms` gave. Raises StageError, naming the class, unless it is scalars by their names, and
    where some are not 0 and none has a way back into what learns: they would change nothing but the figures.

    A constant beside a term that learns is a figure, as NNI's objective has of the parts of its loss.
    """
    said = type(objective).__name__
    if not isinstance(found, dict):
        raise StageError(f"the objective {said} gave {type(found).__name__}; expected terms by name, such as {{}}")
    for name, term in found.items():
        if not isinstance(name, str) or not isinstance(term, Tensor) or term.ndim:
            shape = f"a tensor of shape {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise StageError(f"the objective {said} gave {shape} as the term {shortened(name)}; expected a scalar")
    constants = {name: float(term) for name, term in found.items() if not term.requires_grad and term != 0}
    if constants and not any(term.requires_grad for term in found.values()):
        name, value = next(iter(constants.items()))
        raise StageError(
            f"the objective {said} gave the constant {value:.4g} as the term '{name}'; expected a term that depends on "
            "what is trained, and is not detached from it, or 0 where there is nothing to learn"
        )
    return found


class Objective(nn.Module):
    """One thing that is learnt. Every method may be left out. Its docstring is its card.

    Modules that are its attributes (an adapter, a critic) are on the device of the network, and in the checkpoints
    with it; their parameters are trained by the network's optimizer, unless they are in an `optimizer` of its own. What
    does not learn (`detpress.training.teacher.Teacher`) is no module of it.

    The global generators of Python, NumPy and PyTorch are seeded in every step by the training's seed and the step, so
    that what is drawn from them is the same after a kill, too.
    """

    Config: ClassVar[type[Options]] = NoOptions
    version: ClassVar[int] = 1  # raised when the same options give another result: it enters the stage's key
    replaces: ClassVar[frozenset[str]] = frozenset()  # names of terms, of other objectives, that are left out
    on_several_devices: ClassVar[bool] = False  # whether it has neither modules nor a state, and so can be copied
    layers: Sequence[str] = ()  # names of the network's layers, such as `layers.80`, that `step.outputs` shall have

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config

    def check(self, model: Model) -> None:
        """Holds the options against the model that will be trained, before anything is computed.

        Raises InputError, its text beginning with the option that is wrong and a colon.
        """

    def prepare(self, start: TrainingStart) -> None:
        """Makes its modules, and says which `layers` it wants to see; also after a kill, before they are read back."""

    def optimizer(self) -> Optimizer | None:
        """An optimizer of its own, at rates of its own; asked for once, when its modules are on the device."""
        return None

    def own_terms(self, step: TrainingStep) -> Terms | None:
        """The loss that its own optimizer steps on, before the network's turn; what the network gave is detached.

        Nothing ({}) where it is not its turn; None where its parameters learn from the network's loss instead.
        """
        return None

    def network_waits(self, step: TrainingStep) -> bool:
        """Whether this step is none of the network's: neither its weights nor their average change."""
        return False

    def terms(self, step: TrainingStep) -> Terms:
        """What it adds to the network's loss: each term is a column of `training.csv`. Parameters of an optimizer
        that steps on `own_terms` are held meanwhile."""
        return {}

    def after_step(self, step: TrainingStep) -> None:
        """What else happens after the step of the optimizer, and before the moving average takes the network in."""

    def state(self) -> Any:
        """What it must have back after a kill and no module holds: plain data and tensors."""
        return None

    def load_state(self, state: Any) -> None:
        """Takes back what `state` gave."""


def without_replaced(objectives: Sequence[Objective], terms_of: Callable[[Objective], Terms | None]) -> Terms:
    """The terms that each objective gives, but for those that another one replaces, in order.

    Raises StageError for a term that two of them give.
    """
    terms: Terms = {}
    for objective in objectives:
        replaced = {name for other in objectives if other is not objective for name in other.replaces}
        given = {name: term for name, term in (terms_of(objective) or {}).items() if name not in replaced}
        if twice := given.keys() & terms.keys():
            raise StageError(f"two objectives give a term '{min(twice)}'; expected names of their own")
        terms |= given
    return terms


def check_layers(objectives: Sequence[Objective], network: nn.Module) -> None:
    """Raises InputError for a layer that an objective wants to see and that is no module of the network."""
    known = {name for name, _ in network.named_modules()}
    for objective in objectives:
        if unknown := [name for name in objective.layers if name not in known]:
            raise InputError(f"{type(objective).__name__} wants to see {unknown[0]}, which the network does not have")


@contextmanager
def outputs_of(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules of these names give while the network is called, by name. Routing calls no module."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(partial(_keep_output, outputs, name)) for name in set(layers)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _keep_output(outputs: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    outputs[name] = output


@contextmanager
def held(parameters: Sequence[Tensor]) -> Iterator[None]:
    """These parameters get no gradient from what is computed here."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def total(terms: Terms) -> Tensor:
    """The sum of all terms, of which there is at least one, in their order."""
    first, *others = terms.values()
    for term in others:
        first = first + term
    return first


def check_devices(devices: int, objectives: Sequence[Objective], optimizer: bool = False, place: str = "") -> None:
    """Raises InputError where an objective that has a state, or an optimizer of its own, is for many devices.

    place: what comes before the option's name.
    """
    if devices > 1 and (optimizer or not all(objective.on_several_devices for objective in objectives)):
        raise InputError(f"{place}devices: expected 1 where more is learnt than the detection loss, got {devices}")
