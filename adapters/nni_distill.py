"""The bridge to NNI 3.0's layerwise distillers: a student's maps are drawn to those of a teacher.

NNI looks at the outputs of modules, and its adaptive distiller aligns their last dimension by a linear layer; of a
convolution's output (N, C, H, W) that is the width of the map, which student and teacher have in common, so it aligns
nothing and then compares C channels with other C. So the network is put into a `TappedNetwork`, which shows each map
once more as (N, H, W, C): now the linear layer is a 1x1 convolution from the student's channels to the teacher's, as
in FitNets, and a KL divergence is over the channels of a place.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detpress.adapters.nni_training import WorkbenchEvaluator, without_wrappers
from detpress.contract.plugin import Workbench
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.engine_log import engine_messages
from detpress.training.config import TrainingConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    from nni.compression.distillation import Adaptive1dLayerwiseDistiller, DynamicLayerwiseDistiller

Distiller = Literal["dynamic", "adaptive1d"]
DISTILLERS: dict[Distiller, type[Any]] = {
    "dynamic": DynamicLayerwiseDistiller,
    "adaptive1d": Adaptive1dLayerwiseDistiller,
}


class ChannelsLast(nn.Module):
    """(N, C, H, W) -> (N * H * W, C): NNI divides the KL divergence by the first dimension alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(0, 2)


class TappedNetwork(nn.Module):
    """Gives the raw maps of `network`; what its `layers` give also passes through the module `taps.layers_<number>`.

    The layers must compute something of their own: routing calls no module.
    """

    def __init__(self, network: nn.Module, layers: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.taps = nn.ModuleDict({f"layers_{i}": ChannelsLast() for i in layers})
        for i in layers:
            network.get_submodule(f"layers.{i}").register_forward_hook(partial(_show, self.taps[f"layers_{i}"]))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.network(images)
        return maps


def _show(tap: nn.Module, module: nn.Module, inputs: Any, output: Tensor) -> None:
    """A forward hook: the map goes on as it is, and once more through the tap."""
    tap(output)


def distill(
    distiller: Distiller,
    student: Model,
    teacher: nn.Module,
    links: Mapping[int, Sequence[int]],
    loss: Literal["mse", "kl"],
    weight: float,
    detection_weight: float,
    training: TrainingConfig,
    bench: Workbench,
) -> Network:
    """A copy of the student's network, trained on its own loss and on its distance from the teacher.

    links: student's layer number -> those of the teacher. `dynamic` takes the nearest of them at every step and needs
        equal channels; `adaptive1d` takes one.
    loss, weight: of a link, mean squared error or KL divergence of two softmaxes over the channels, and its factor.
    detection_weight: factor of the detector's own loss.
    """
    learning = TappedNetwork(copy.deepcopy(student.network).requires_grad_(True), list(links))
    linked = sorted({layer for layers in links.values() for layer in layers})
    teaching = TappedNetwork(copy.deepcopy(teacher).eval().requires_grad_(False), linked)
    config = [
        {"op_names": [_tap(i)], "link": [_tap(k) for k in layers], "lambda": weight, "apply_method": loss}
        for i, layers in links.items()
    ]
    with engine_messages(bench.log, "nni"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)  # the adaptive distiller draws its linear layers
        evaluator = WorkbenchEvaluator(learning, student.architecture, training, bench)
        engine = DISTILLERS[distiller](learning, config, evaluator, teaching, _predict, detection_weight)
        engine.track_forward(bench.calibration(1))  # the shapes of the maps
        engine.compress(None, training.epochs)
        engine.unwrap_model()
    return without_wrappers(learning.network, student.architecture)


def _predict(batch: tuple[Tensor, Any], teacher: nn.Module) -> Any:
    """What NNI calls so that the teacher's taps see the batch."""
    images = batch[0]
    return teacher.to(images.device)(images)


def _tap(layer: int) -> str:
    return f"taps.layers_{layer}"
