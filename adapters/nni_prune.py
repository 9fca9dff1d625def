"""The bridge to NNI's pruners: which filters, or which weights, they mask.

What is done around NNI, besides training (see `nni_training`):

- a BatchNorm is masked with the convolution before it, by NNI's `align`; NNI would leave its shift in place of a
  masked filter, and the network would learn to live with a constant that is taken away later;
- SlimPruner scores BatchNorms and masks nothing else, and its factors are lost when it unwraps the network: they are
  multiplied into the scales, and its masks are those of the filters;
- NNI's global ranking knows no coupled layers and masks small layers as a whole, since their norms are small. Which
  share each layer loses is found here, from NNI's scores, and NNI masks by these shares.
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
from detpress.detector.channels import MaskTargets, coupled_convolutions, has_part
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


class _Ranking:
    """Mixed into NNI's pruners: before they mask, the layers that compete are told how much each of them loses."""

    comparable: ClassVar[bool] = False  # scores of different layers are on one scale as they are
    coupled: Sequence[Sequence[str]] = ()  # names of the modules that compete, those masked alike together
    at_most: float = 1.0
    _target_spaces: dict[str, dict[str, Any]]

    def _generate_sparsity(self, metrics: Metrics) -> Metrics:
        spaces = {name: self._target_spaces[name]["weight"] for names in self.coupled for name in names}
        together = {name: space.sparse_ratio for name, space in spaces.items()}
        for names, count in zip(self.coupled, self._lost(metrics), strict=True):
            for name in names:
                spaces[name].sparse_ratio = (count + 0.5) / metrics[name]["weight"].numel()
        masks = super()._generate_sparsity(metrics)  # type: ignore[misc]
        for name, share in together.items():  # which the schedule goes on from
            spaces[name].sparse_ratio = share
        return masks  # type: ignore[no-any-return]

    def _lost(self, metrics: Metrics) -> list[int]:
        """How many filters (or weights) each of `coupled` loses: those of the lowest scores, to the share asked for.

        The share is one of weights. Coupled modules have the mean of their scores; none loses more than `at_most`.
        """
        scores, weights, owners, total = [], [], [], 0
        for owner, names in enumerate(self.coupled):
            score = torch.stack([self._on_one_scale(metrics[name]["weight"].flatten()) for name in names]).mean(0)
            size = sum(self._target_spaces[name]["weight"].target.numel() for name in names)
            lowest = score.sort().values[: min(math.floor(self.at_most * len(score)), len(score) - 1)]
            scores.append(lowest)
            weights.append(torch.full_like(lowest, size // len(score), dtype=torch.int64))
            owners.append(torch.full_like(lowest, owner, dtype=torch.int64))
            total += size
        if not scores:
            return []
        order = torch.cat(scores).argsort(stable=True)
        share = self._target_spaces[self.coupled[0][0]]["weight"].sparse_ratio
        lost = torch.cat(owners)[order][torch.cat(weights)[order].cumsum(0) <= share * total]
        return torch.bincount(lost, minlength=len(self.coupled)).tolist()

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

    Coupled convolutions have equal numbers in `targets` and lose the same filters: NNI takes the mean over what each
    of them thinks of a channel. Where the pruner scores BatchNorms, a convolution without one goes with the others of
    its group, at least one of which has one.
    Returns convolution's layer number -> bool (filters,), for all layers of `targets`.
    Raises StageError where NNI masked another number of filters than it was told.
    """
    part = "norm" if pruner == "slim" else "convolution"
    channels = architecture.output_channels
    groups = coupled_convolutions(architecture)
    together = {i: [k for k in group if has_part(architecture, k, part)] for group in groups for i in group}
    asked = {i: i if i in together[i] else together[i][0] for i in targets.layers}
    config = []
    for i in sorted(set(asked.values())):
        setting = _setting(targets, i, channels[i]) | {"dependency_group_id": f"with {together[i][0]}"}
        config.append({"op_names": [f"layers.{i}.{part}"], "target_names": ["weight"], **setting})
        if part == "convolution" and has_part(architecture, i, "norm"):
            config.append(_norm_with_its_convolution(i))
    ranked = {together[i][0]: together[i] for i in targets.ranked}
    coupled = [[f"layers.{i}.{part}" for i in group] for group in ranked.values()]
    trained, masks = _compress(network, architecture, pruner, config, coupled, targets.at_most, bench, schedule)
    scored = {i: masks[f"layers.{asked[i]}.{part}"]["weight"] for i in targets.layers}
    kept = {i: mask.reshape(len(mask), -1).any(dim=1) for i, mask in scored.items()}
    _check_counts(targets, kept)
    return trained, kept


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
    coupled = [[convolution_name(i)] for i in targets.ranked]
    trained, masks = _compress(network, architecture, pruner, config, coupled, targets.at_most, bench, schedule)
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
    coupled: Sequence[Sequence[str]],
    at_most: float,
    bench: Workbench,
    schedule: Schedule,
) -> tuple[Network, Metrics]:
    """The network after NNI, and NNI's masks: module name -> parameter's name -> 0 or 1."""
    network = copy.deepcopy(network).requires_grad_(True)
    with engine_messages(bench.log, "nni"):
        if schedule.training is None:
            pruner, steps = PRUNERS[method](network, config), None
            pruner.coupled, pruner.at_most = coupled, at_most
        else:
            evaluator = WorkbenchEvaluator(network, architecture, schedule.training, bench)
            interval = schedule.epochs_per_rise * bench.steps_per_epoch(schedule.training)
            pruner = _trained_pruner(method, network, config, evaluator, interval, schedule)
            pruner.coupled, pruner.at_most = coupled, at_most
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
