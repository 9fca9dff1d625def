"""The bridge to NNI's pruners: which filters, or which weights, they mask.

What is done around NNI, besides training (see `nni_training`):

- a BatchNorm is masked with the convolution before it, by NNI's `align`; NNI would leave its shift in place of a
  masked filter, and the network would learn to live with a constant that is taken away later;
- SlimPruner scores BatchNorms and masks nothing else, and its factors are lost when it unwraps the network: they are
  multiplied into the scales, and its masks are those of the filters;
- NNI's global ranking knows no coupled layers and masks small layers as a whole, since their norms are small. Which
  share each layer loses is found here, from NNI's scores, and NNI masks by these shares;
- NNI couples layers that lose the same filters by the same numbers. Where filters go together in other ways (see
  `detpress.detector.coupling`), the units of the lowest mean score are found here; NNI is given zero as their score.
"""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detpress.adapters.nni_training import WorkbenchEvaluator, without_wrappers
from detpress.contract.plugin import Workbench
from detpress.detector.architecture import Architecture
from detpress.detector.channels import MaskTargets, has_part
from detpress.detector.coupling import Group, by_convolution, coupled_filters, is_plain
from detpress.detector.network import Network, convolution_name, weight_name
from detpress.engine_log import engine_messages
from detpress.errors import StageError
from detpress.training.config import TrainingConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    from nni.compression import pruning as nni_pruning
    from nni.compression.pruning.slim_pruner import SLIM_SCALING_FACTOR_PNAME

Metrics = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How the sparsity grows: at once, or in rises after so many epochs of training each.

    training: None where the pruner needs none. options: more arguments of NNI's pruner.
    """

    kind: str = "one_shot"
    rises: int = 1
    epochs_per_rise: int = 0
    training: TrainingConfig | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Together:
    """Modules whose filters (or weights) are masked alike.

    filters: int (units, modules), where they go together in other ways than by the same numbers; a module is then named
        as often as a unit has filters of it. removed: how many units go in the end; None: this competes with others.
    """

    names: Sequence[str]
    filters: Tensor | None = None
    removed: int | None = None

    def scores(self, metrics: Metrics) -> list[Tensor]:
        """Of each module, (units,)."""
        flat = [metrics[name]["weight"].flatten() for name in self.names]
        if self.filters is None:
            return flat
        return [score[each.to(score.device)] for score, each in zip(flat, self.filters.T, strict=True)]


class _Ranking:
    """Mixed into NNI's pruners: before they mask, layers are told how much each of them loses."""

    comparable: ClassVar[bool] = False  # scores of different layers are on one scale as they are
    together: Sequence[_Together] = ()  # those that compete, and those that go together in other ways
    at_most: float = 1.0
    in_the_end: Mapping[str, float]  # the share that a module loses in the end, by its name
    _target_spaces: dict[str, dict[str, Any]]

    def _generate_sparsity(self, metrics: Metrics) -> Metrics:
        spaces = {name: self._target_spaces[name]["weight"] for one in self.together for name in one.names}
        shares = {name: space.sparse_ratio for name, space in spaces.items()}
        competing = [one for one in self.together if one.removed is None]
        counts = dict(zip(map(id, competing), self._lost(metrics, competing), strict=True))
        told: dict[str, Tensor] = {}
        for one in self.together:
            if one.filters is None:
                for name in one.names:
                    spaces[name].sparse_ratio = (counts[id(one)] + 0.5) / metrics[name]["weight"].numel()
            else:
                count = counts[id(one)] if one.removed is None else self._lost_by_now(one, one.removed)
                lowest = torch.stack(one.scores(metrics)).mean(0).argsort(stable=True)[:count]
                for name, filters in zip(one.names, one.filters.to(lowest.device).T, strict=True):
                    told.setdefault(name, torch.ones_like(metrics[name]["weight"])).view(-1)[filters[lowest]] = 0
        for name, score in told.items():
            spaces[name].sparse_ratio = (int((score == 0).sum()) + 0.5) / score.numel()
        metrics = metrics | {name: {"weight": score} for name, score in told.items()}
        masks = super()._generate_sparsity(metrics)  # type: ignore[misc]
        for name, share in shares.items():  # which the schedule goes on from
            spaces[name].sparse_ratio = share
        return masks  # type: ignore[no-any-return]

    def _lost_by_now(self, one: _Together, removed: int) -> int:
        """As much of what it loses as its first module has reached of its share."""
        name = one.names[0]
        return int((removed + 0.5) * self._target_spaces[name]["weight"].sparse_ratio / self.in_the_end[name])

    def _lost(self, metrics: Metrics, competing: Sequence[_Together]) -> list[int]:
        """How many filters (or weights) each of them loses: those of the lowest scores, to the share asked for.

        The share is one of weights. Coupled modules have the mean of their scores; none loses more than `at_most`.
        """
        scores, weights, owners, total = [], [], [], 0
        for owner, one in enumerate(competing):
            score = torch.stack([self._on_one_scale(score) for score in one.scores(metrics)]).mean(0)
            size = sum(self._weights(name, one) for name in one.names)
            lowest = score.sort().values[: min(math.floor(self.at_most * len(score)), len(score) - 1)]
            scores.append(lowest)
            weights.append(torch.full_like(lowest, size // len(score), dtype=torch.int64))
            owners.append(torch.full_like(lowest, owner, dtype=torch.int64))
            total += size
        if not scores:
            return []
        order = torch.cat(scores).argsort(stable=True)
        share = self._target_spaces[competing[0].names[0]]["weight"].sparse_ratio
        lost = torch.cat(owners)[order][torch.cat(weights)[order].cumsum(0) <= share * total]
        return torch.bincount(lost, minlength=len(competing)).tolist()

    def _weights(self, name: str, one: _Together) -> int:
        """Of a module, those of its filters that go with the others."""
        target: Tensor = self._target_spaces[name]["weight"].target
        return target.numel() if one.filters is None else target.numel() // len(target) * len(one.filters)

    def _on_one_scale(self, score: Tensor) -> Tensor:
        return score if self.comparable else score / score.mean().clamp(min=torch.finfo(score.dtype).tiny)


def _competing(pruner: Any, comparable: bool) -> Any:
    return type(pruner.__name__, (_Ranking, pruner), {"comparable": comparable})


PRUNERS: dict[str, Any] = {
    "level": _competing(nni_pruning.LevelPruner, comparable=True),
    "l1norm": _competing(nni_pruning.L1NormPruner, comparable=False),
    "l2norm": _competing(nni_pruning.L2NormPruner, comparable=False),
    "fpgm": _competing(nni_pruning.FPGMPruner, comparable=False),
    "slim": _competing(nni_pruning.SlimPruner, comparable=True),
    "taylor": _competing(nni_pruning.TaylorPruner, comparable=True),
    "movement": _competing(nni_pruning.MovementPruner, comparable=True),
}
SCHEDULES: dict[str, Any] = {"linear": nni_pruning.LinearPruner, "agp": nni_pruning.AGPPruner}
AT_ONCE = Schedule()


def choose_filters(
    network: nn.Module,
    architecture: Architecture,
    pruner: str,
    targets: MaskTargets,
    bench: Workbench,
    schedule: Schedule = AT_ONCE,
) -> tuple[Network, dict[int, Tensor]]:
    """The network, trained if the schedule says so, and the filters that the pruner keeps; `network` is left alone.

    Coupled filters are masked alike: the score of a unit is the mean over what NNI thinks of each of its filters. Where
    the pruner scores BatchNorms, a convolution without one goes with the others of its group, at least one of which
    has one.
    Returns convolution's layer number -> bool (filters,), for all layers of `targets`.
    Raises StageError where NNI masked another number of filters than it was told.
    """
    part = "norm" if pruner == "slim" else "convolution"
    channels = architecture.output_channels
    groups = [
        _Scored(group, filters, [place for place, i in enumerate(group) if has_part(architecture, i, part)])
        for group, filters in coupled_filters(architecture).items()
        if set(targets.layers).issuperset(group)
    ]
    groups = [one for one in groups if one.places]
    together: list[_Together] = []
    first: dict[int, int] = {}  # of a convolution's group, if that is plain
    for one in groups:
        names = [f"layers.{i}.{part}" for i in one.convolutions]
        competes = not set(targets.ranked).isdisjoint(one.group)
        if is_plain(channels, one.group, one.filters):
            first |= dict.fromkeys(one.group, one.convolutions[0])
            together += [_Together(names)] if competes else []
        else:
            removed = None if competes else targets.units.get(one.group, 0)
            together.append(_Together(names, one.filters[:, one.places], removed))
    config = []
    for i in sorted({i for one in groups for i in one.convolutions}):
        setting = _setting(targets, i, channels[i]) | {"dependency_group_id": f"with {first.get(i, i)}"}
        config.append({"op_names": [f"layers.{i}.{part}"], "target_names": ["weight"], **setting})
        if part == "convolution" and has_part(architecture, i, "norm"):
            config.append(_norm_with_its_convolution(i))
    trained, masks = _compress(network, architecture, pruner, config, together, targets.at_most, bench, schedule)
    units = {}
    for one in groups:
        mask = masks[f"layers.{one.convolutions[0]}.{part}"]["weight"]
        units[one.group] = mask.reshape(len(mask), -1).any(dim=1).cpu()[one.filters[:, one.places[0]]]
    lost = by_convolution(architecture, units)
    kept = {i: lost.get(i, torch.ones(channels[i], dtype=torch.bool)) for i in targets.layers}
    _check_counts(targets, kept)
    return trained, kept


@dataclass(frozen=True)
class _Scored:
    """A group of filters, as of `coupled_filters`, and the places in it of those convolutions that NNI scores."""

    group: Group
    filters: Tensor
    places: list[int]

    @property
    def convolutions(self) -> list[int]:
        return [self.group[place] for place in self.places]


def choose_weights(
    network: nn.Module,
    architecture: Architecture,
    pruner: str,
    targets: MaskTargets,
    bench: Workbench,
    schedule: Schedule = AT_ONCE,
) -> tuple[Network, dict[int, Tensor]]:
    """As `choose_filters`, for single weights of convolutions: layer number -> bool, of the weight's shape."""
    config = []
    for i in targets.layers:
        setting = _setting(targets, i, network.get_parameter(weight_name(i)).numel())
        granularity = {"granularity": [1, 1, 1, 1]}  # blocks of one weight
        config.append({"op_names": [convolution_name(i)], "target_names": ["weight"], **setting, **granularity})
    together = [_Together([convolution_name(i)]) for i in targets.ranked]
    trained, masks = _compress(network, architecture, pruner, config, together, targets.at_most, bench, schedule)
    kept = {i: masks[convolution_name(i)]["weight"].bool() for i in targets.layers}
    _check_counts(targets, kept)
    return trained, kept


def _setting(targets: MaskTargets, layer: int, of: int) -> dict[str, Any]:
    """NNI's setting for one layer; `of`: its filters or its weights."""
    if layer in targets.removed:
        return {"sparse_ratio": (targets.removed[layer] + 0.5) / of}  # times `of`, truncated by NNI
    return {"sparse_ratio": targets.sparsity}


def _norm_with_its_convolution(layer: int) -> dict[str, Any]:
    align = {"module_name": convolution_name(layer), "target_name": "weight", "dims": [0]}
    targets = ["weight", "bias"]
    settings = {name: {"align": align} for name in targets}
    return {"op_names": [f"layers.{layer}.norm"], "target_names": targets, "target_settings": settings}


def _check_counts(targets: MaskTargets, kept: Mapping[int, Tensor]) -> None:
    for i, expected in targets.removed.items():
        if (masked := int((~kept[i]).sum())) != expected:
            raise StageError(f"NNI masked {masked} of layers.{i}, not {expected}")


def _compress(
    network: nn.Module,
    architecture: Architecture,
    method: str,
    config: list[dict[str, Any]],
    together: Sequence[_Together],
    at_most: float,
    bench: Workbench,
    schedule: Schedule,
) -> tuple[Network, Metrics]:
    """The network after NNI, and NNI's masks: module name -> parameter's name -> 0 or 1."""
    network = copy.deepcopy(network).requires_grad_(True)
    with engine_messages(bench.log, "nni"):
        if schedule.training is None:
            pruner, steps = PRUNERS[method](network, config), None
            _tell(pruner, together, at_most)
        else:
            evaluator = WorkbenchEvaluator(network, architecture, schedule.training, bench)
            interval = schedule.epochs_per_rise * bench.steps_per_epoch(schedule.training)
            pruner = _trained_pruner(method, network, config, evaluator, interval, schedule)
            _tell(pruner, together, at_most)
            steps = evaluator.steps
            if schedule.kind == "one_shot":
                steps = None  # NNI's pruner has been told when it makes its masks
            elif method != "movement":  # whose sparsity rises by itself
                pruner = SCHEDULES[schedule.kind](pruner, interval, schedule.rises, evaluator)
        _, masks = pruner.compress(steps, None)
        for wrapper in pruner._module_wrappers.values():
            if (factors := getattr(wrapper, SLIM_SCALING_FACTOR_PNAME.format("weight"), None)) is not None:
                wrapper.weight.data.mul_(factors.data)
        pruner.unwrap_model()
    return without_wrappers(network, architecture), masks


def _tell(pruner: Any, together: Sequence[_Together], at_most: float) -> None:
    pruner.together, pruner.at_most = together, at_most
    names = {name for one in together for name in one.names}
    pruner.in_the_end = {name: pruner._target_spaces[name]["weight"].sparse_ratio for name in names}


def _trained_pruner(
    method: str,
    network: nn.Module,
    config: list[dict[str, Any]],
    evaluator: WorkbenchEvaluator,
    interval: int,
    schedule: Schedule,
) -> Any:
    """NNI's pruner, which masks for the first time after `interval` steps of training."""
    kind = PRUNERS[method]
    if method in ("slim", "taylor"):
        return kind(network, config, evaluator, training_steps=interval, **schedule.options)
    if method == "movement":
        pruner = kind(network, config, evaluator, warmup_step=0, cooldown_begin_step=interval * schedule.rises)
        pruner.interval_steps, pruner.total_times = interval, schedule.rises
        return pruner
    return kind(network, config, evaluator)
