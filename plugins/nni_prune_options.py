"""What the options of NNI's pruners mean in numbers: how many filters, or weights, of which layers."""

import math
from bisect import bisect_left
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from detpress.options import Options
from detpress.training.config import TrainingOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from detpress.detector.architecture import Architecture
    from detpress.detector.channels import MaskTargets
    from detpress.detector.coupling import Group
    from detpress.detector.model import Model


class Schedule(Options):
    """When the sparsity is reached."""

    kind: Literal["one_shot", "linear", "agp"] = Field(
        "one_shot", description="at once; in equal rises; in rises that get smaller (1 - (1 - t)^3, Zhu and Gupta)"
    )
    steps: int = Field(1, ge=1, le=1000, description="rises of the sparsity; 1 for one_shot")
    epochs_per_step: int = Field(1, ge=1, le=1000, description="epochs of training before each rise")

    @model_validator(mode="after")
    def _steps_fit_kind(self) -> Self:
        if (self.kind == "one_shot") != (self.steps == 1):
            expected = "steps: 1" if self.kind == "one_shot" else "at least 2 steps"
            raise ValueError(f"{self.kind}: expected {expected}, got {self.steps}")
        return self


class Pruning(Options):
    """Which layers lose how much, and when."""

    trains_at_once: ClassVar[bool] = False  # whether there is training even where the schedule is one_shot

    exclude: list[str] = Field(
        [], description="patterns of layers left whole, such as `layers.0` or `layers.1?`; so are those added to them"
    )
    overrides: dict[str, float] = Field({}, description="sparsity of the layers that a pattern matches; the last wins")
    ranking: Literal["uniform", "global"] = Field(
        "uniform", description="the same share of every layer, or the lowest scores of all layers without an override"
    )
    at_most: float = Field(0.9, gt=0, lt=1, description="largest share that a layer may lose by global ranking")
    schedule: Schedule = Schedule()
    training: TrainingOptions = TrainingOptions()

    @property
    def epochs(self) -> int:
        """Of training, while the masks are found; 0: none."""
        trains = self.trains_at_once or self.schedule.kind != "one_shot"
        return self.schedule.steps * self.schedule.epochs_per_step if trains else 0

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.ranking == "uniform" and "at_most" in self.model_fields_set:
            raise ValueError("at_most: expected only with `ranking: global`")
        if not self.epochs and "epochs_per_step" in self.schedule.model_fields_set:
            raise ValueError("epochs_per_step: this pruner trains only with a linear or agp schedule")
        if not self.epochs and "training" in self.model_fields_set:
            raise ValueError("training: this pruner trains only with a linear or agp schedule")
        return self


class WeightPruning(Pruning):
    """Single weights."""

    sparsity: float = Field(gt=0, lt=1, description="share of each convolution's weights to mask")


class FilterPruning(Pruning):
    """Whole filters. Either `sparsity` or `parameters` is given."""

    sparsity: float | None = Field(None, gt=0, lt=1, description="share of each convolution's filters to mask")
    parameters: float | None = Field(
        None, gt=0, lt=1, description="share of the parameters that nni.speedup shall remove; decides the sparsity"
    )
    round_to: int = Field(
        1,
        ge=1,
        le=1024,
        description="filters kept are rounded up to a multiple of this; 16 for what ends in int8 (docs/benchmarks.md)",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.sparsity is None) == (self.parameters is None):
            raise ValueError("expected either `sparsity` or `parameters`")
        if self.ranking == "global":
            self._only_sparsity("a global ranking decides how many filters each layer keeps")
        return self

    def _only_sparsity(self, why: str) -> None:
        if self.sparsity is None or self.round_to != 1:
            raise ValueError(f"{why}: expected `sparsity`, without `parameters` and `round_to`")


class TrainedPruning(FilterPruning):
    """Whole filters, judged while the network trains."""

    trains_at_once = True


class SlimPruning(TrainedPruning):
    """Whole filters, judged by factors that a penalty shrinks."""

    penalty: float = Field(
        1.0, gt=0, le=1000, description="weight in the loss of the factors' L1 norm, a mean over the layers"
    )


class MovementSchedule(Schedule):
    """NNI raises the sparsity of movement pruning in one way."""

    kind: Literal["agp"] = Field("agp", description="in rises that get smaller (1 - (1 - t)^3)")
    steps: int = Field(4, ge=2, le=1000, description="rises of the sparsity")


class MovementPruning(FilterPruning):
    """Filters or single weights, judged by whether training moves them away from zero."""

    trains_at_once = True

    masks: Literal["filters", "weights"] = Field(
        "filters", description="what is masked as a whole; nni.speedup can remove filters only"
    )
    schedule: MovementSchedule = MovementSchedule()
    cooldown: int = Field(1, ge=0, le=1000, description="epochs after the last rise, in which masks still change")

    @property
    def epochs(self) -> int:
        return super().epochs + self.cooldown

    @model_validator(mode="after")
    def _single_weights_as_asked(self) -> Self:
        if self.masks == "weights":
            self._only_sparsity("single weights are masked")
        return self


def weight_targets(model: "Model", config: WeightPruning | MovementPruning) -> "MaskTargets":
    """The weights to mask, by convolution; heads lose none. Raises InputError for a pattern that matches no layer."""
    from detpress.detector.channels import MaskTargets

    assert config.sparsity is not None
    shares, named = _shares(model.architecture, config, config.sparsity)
    counts = {layer: model.network.get_parameter(f"layers.{layer}.convolution.weight").numel() for layer in shares}
    ranked = [layer for layer in shares if config.ranking == "global" and shares[layer] and layer not in named]
    removed = {layer: math.floor(share * counts[layer] + 1e-9) for layer, share in shares.items()}
    removed = {layer: count for layer, count in removed.items() if count and layer not in ranked}
    return MaskTargets(removed, ranked, config.sparsity, config.at_most)


def filter_targets(architecture: "Architecture", config: FilterPruning) -> "MaskTargets":
    """The filters to mask; equal for coupled ones.

    Raises InputError for a pattern that matches no layer, a sparsity out of range, coupled layers that are told to
    lose different shares, and a share of parameters that cannot be reached.
    """
    from detpress.detector.channels import stored_parameters, without_filters
    from detpress.detector.coupling import coupled_filters
    from detpress.errors import InputError

    if config.sparsity is not None:
        return _at_sparsity(architecture, coupled_filters(architecture), config, config.sparsity)
    assert config.parameters is not None
    whole, coupled = stored_parameters(architecture), coupled_filters(architecture)

    def share_removed(thousandths: int) -> float:
        removed = _at_sparsity(architecture, coupled, config, thousandths / 1000).removed
        return 1 - stored_parameters(without_filters(architecture, removed)) / whole

    thousandths = bisect_left(range(1000), config.parameters, key=share_removed)
    if thousandths == 1000:
        most = math.floor(1000 * share_removed(999)) / 1000
        raise InputError(f"parameters: {config.parameters:g} cannot be reached; at most {most:g} of them can go")
    return _at_sparsity(architecture, coupled, config, thousandths / 1000)


def _at_sparsity(
    architecture: "Architecture", coupled: "Mapping[Group, Tensor]", config: FilterPruning, sparsity: float
) -> "MaskTargets":
    """`filter_targets` where layers that no option names lose the share `sparsity` of their filters."""
    from detpress.detector.channels import MaskTargets
    from detpress.detector.coupling import of_units
    from detpress.errors import InputError

    shares, named = _shares(architecture, config, sparsity)
    units: dict[Group, int] = {}
    ranked: set[int] = set()
    fixed = [i for i in sorted(named) if shares[i] and not any(i in group for group in coupled)]
    if fixed:
        raise InputError(
            f"overrides: the filters of {architecture.names[fixed[0]]} hang together with others and cannot be removed"
        )
    in_one_way = _with_all_of_their_groups(named, coupled)
    for group, filters in coupled.items():
        told = sorted({shares[i] for i in group})
        if told[0] == 0:  # filters of the others could be masked, but never taken out
            continue
        if len(told) > 1:
            names = ", ".join(architecture.names[i] for i in dict.fromkeys(group))
            several = " and ".join(f"{share:g}" for share in told)
            raise InputError(f"overrides: {names} are added to each other and need one sparsity, not {several}")
        if config.ranking == "global" and in_one_way.isdisjoint(group):
            ranked.update(group)
            continue
        wanted = len(filters) - math.floor(told[0] * len(filters) + 1e-9)
        step = math.lcm(*(config.round_to // math.gcd(config.round_to, group.count(i)) for i in group))
        kept = min(len(filters), max(1, math.ceil(wanted / step) * step))
        if kept < len(filters):
            units[group] = len(filters) - kept
    return MaskTargets(of_units(units), sorted(ranked), sparsity, config.at_most, units)


def _with_all_of_their_groups(layers: set[int], groups: "Iterable[Group]") -> set[int]:
    """These layers, and all that some of whose filters go with filters of theirs, directly or by others."""
    found = set(layers)
    while more := {i for group in groups if not found.isdisjoint(group) for i in group} - found:
        found |= more
    return found


def _shares(architecture: "Architecture", config: Pruning, sparsity: float) -> tuple[dict[int, float], set[int]]:
    """Convolution's layer number -> share that it loses; and the layers whose share an override gives."""
    from detpress.detector.architecture import Convolution
    from detpress.detector.layer_patterns import matching_layers
    from detpress.errors import InputError

    convolutions = {
        architecture.names[i]: i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)
    }
    prunable = {name: i for name, i in convolutions.items() if i not in architecture.heads}
    shares = dict.fromkeys(convolutions.values(), 0.0) | dict.fromkeys(prunable.values(), sparsity)
    named: set[int] = set()
    for pattern, share in config.overrides.items():
        if not 0 <= share < 1:
            raise InputError(f"overrides: '{pattern}': expected a sparsity from 0 to below 1, got {share}")
        layers = [prunable[name] for name in matching_layers([pattern], prunable, "overrides")]
        shares |= dict.fromkeys(layers, share)
        named.update(layers)
    shares |= {convolutions[name]: 0.0 for name in matching_layers(config.exclude, convolutions, "exclude")}
    return shares, named
