"""Training of weights, and inputs, that are -1 or 1: a real number beside each weight learns.

The mathematics are functions on tensors; `BinaryWeights` is the objective that hangs them into a training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from detpress.detector.geometry import Geometry
from detpress.detector.network import convolution_of
from detpress.encodings.binary import input_scales, input_signs
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep
from detpress.training.shared_weights import ORIGINAL

BOUND = 1.0  # H, between whose -H and H real weights stay


def chance_of_one(weight: Tensor) -> Tensor:
    """P(+1) of a stochastic weight: clip((w / H + 1) / 2, 0, 1), BinaryConnect's hard sigmoid."""
    return ((weight / BOUND + 1) / 2).clamp(0, 1)


def signs(weight: Tensor) -> Tensor:
    """1 where the chance of it is above a half, -1 elsewhere."""
    return torch.where(weight > 0, 1.0, -1.0)


def drawn_signs(weight: Tensor) -> Tensor:
    """1 by the chance of it, -1 otherwise, drawn from the global generator."""
    return torch.where(torch.rand_like(weight) < chance_of_one(weight), 1.0, -1.0)


def straight_through(binary: Tensor, real: Tensor) -> Tensor:
    """`binary`, whose gradient goes to `real` as it is."""
    return binary.detach() + (real - real.detach())


def binary_input(x: Tensor) -> Tensor:
    """The signs of x, with the gradient of a hard hyperbolic tangent: as it is up to |x| = 1, none beyond."""
    return straight_through(input_signs(x), x.clamp(-1, 1))


def update_scale(shape: torch.Size) -> float:
    """By what BinaryConnect multiplies a step of weights (F, I, k, k): sqrt((fan in + fan out) / 1.5), 1 by Glorot."""
    filters, channels, *kernel = shape
    return math.sqrt((filters + channels) * math.prod(kernel) / 1.5)


def sizes_of_filters(weight: Tensor) -> Tensor:
    """XNOR-Net's alpha: the mean of |w| of each filter, (F, 1, 1, 1)."""
    return weight.abs().mean((1, 2, 3), keepdim=True)


class ScaledSigns(torch.autograd.Function):
    """alpha * sign(w), with XNOR-Net's gradient."""

    @staticmethod
    def forward(context: Any, weight: Tensor) -> Tensor:
        context.save_for_backward(weight)
        return sizes_of_filters(weight) * signs(weight)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        [weight] = context.saved_tensors
        return gradient * xnor_factor(weight)


def xnor_factor(weight: Tensor) -> Tensor:
    """What XNOR-Net's code multiplies the gradient at alpha sign(w) by: (alpha 1[|w| < 1] + 1 / n) (1 - 1 / c).

    weight: (F, c, k, k), of n = c k k weights a filter.
    """
    n, c = weight[0].numel(), weight.shape[1]
    inside = sizes_of_filters(weight) * (weight.abs() < BOUND)
    return (inside + 1 / n) * (1 - 1 / c)


def centred(weight: Tensor) -> Tensor:
    """XNOR-Net's real weights before each step: less their mean over input channels, then held between -1 and 1."""
    return (weight - weight.mean(1, keepdim=True)).clamp(-BOUND, BOUND)


def start_of(weight: Tensor) -> Tensor:
    """Trained weights spread as BinaryConnect's begin, evenly between -H and H: the mean of |w| is H / 2."""
    size = weight.abs().mean()
    return (weight * (BOUND / 2 / size.clamp(min=torch.finfo(weight.dtype).tiny))).clamp(-BOUND, BOUND)


@dataclass(frozen=True)
class How:
    """connect: BinaryConnect's weights; xnor: XNOR-Net's. stochastic: drawn while training.

    inputs: None leaves them in float; `signs` or `scaled_signs` is what convolutions take.
    """

    weights: Literal["connect", "xnor"]
    stochastic: bool = False
    inputs: Literal["signs", "scaled_signs"] | None = None


class BinaryWeight(nn.Module):
    """What a convolution sees of its real weights: the parameter is these."""

    def __init__(self, how: How) -> None:
        super().__init__()
        self.how = how

    def forward(self, real: Tensor) -> Tensor:
        if self.how.weights == "xnor":
            found: Tensor = ScaledSigns.apply(real)  # type: ignore[no-untyped-call]
            return found
        draws = self.how.stochastic and self.training
        return straight_through(drawn_signs(real) if draws else signs(real), real)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return centred(weight) if self.how.weights == "xnor" else start_of(weight)


class BinaryWeights(Objective):
    """Has the weights of convolutions, by layer number, be signs, and their inputs, too, where `how` says so."""

    def __init__(self, convolutions: Sequence[int], how: How) -> None:
        super().__init__()
        self.convolutions, self.how = convolutions, how
        self.before: list[Tensor] = []

    def prepare(self, start: TrainingStart) -> None:
        for i in self.convolutions:
            binarize(start.network, i, self.how)

    def terms(self, step: TrainingStep) -> Terms:
        if self.how.weights == "connect":
            self.before = [real.detach().clone() for real in self._real(step.network)]
        return {}

    @torch.no_grad()
    def after_step(self, step: TrainingStep) -> None:
        """Steps are scaled as BinaryConnect's code does it: by what the optimizer changed."""
        every = self._real(step.network)
        if self.how.weights == "xnor":
            for real in every:
                real.copy_(centred(real))
            return
        for real, before in zip(every, self.before, strict=True):
            real.copy_((before + update_scale(real.shape) * (real - before)).clamp(-BOUND, BOUND))

    def _real(self, network: nn.Module) -> list[Tensor]:
        return [network.get_parameter(f"layers.{i}.convolution.{ORIGINAL}") for i in self.convolutions]


def binarize(network: nn.Module, layer: int, how: How) -> None:
    """Hangs the signs into the convolution, in place."""
    convolution = convolution_of(network, layer)
    assert isinstance(convolution, nn.Conv2d)
    parametrize.register_parametrization(convolution, "weight", BinaryWeight(how))
    if how.inputs is not None:
        convolution.register_forward_pre_hook(_signs_of_input)
    if how.inputs == "scaled_signs":
        convolution.register_forward_pre_hook(_remember_scales, prepend=True)
        convolution.register_forward_hook(_scaled)


def _signs_of_input(convolution: nn.Module, taken: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (binary_input(taken[0]),)


def _remember_scales(convolution: nn.Conv2d, taken: tuple[Tensor, ...]) -> None:
    convolution.__dict__["scales"] = input_scales(taken[0], Geometry.of(convolution))  # no buffer: nothing that is kept


def _scaled(convolution: nn.Module, taken: object, given: Tensor) -> Tensor:
    scales: Tensor = convolution.__dict__.pop("scales")
    return given * scales
