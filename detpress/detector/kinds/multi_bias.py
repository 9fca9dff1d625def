"""Multi-bias activation: one map seen through several thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from detpress.detector.kinds.activation import ACTIVATIONS, Activation
from detpress.detector.layer import FeatureMap, Layer

Start = Literal["wide", "narrow", "normal"]
ENDS = {"wide": (1.0, 0.5, -0.5, -1.0), "narrow": (0.3, 0.1, -0.1, -0.3)}


class ManyBiases(nn.Module):
    """(N, C, H, W) -> (N, K * C, H, W): all channels with their first bias, then all with their second, ..."""

    def __init__(
        self, channels: int, biases: int, start: Start, shared: bool, norm: bool, activation: Activation
    ) -> None:
        super().__init__()
        self.channels, self.biases, self.shared = channels, biases, shared
        first = starting_biases(biases, start)
        self.bias = nn.Parameter(first if shared else first.repeat_interleave(channels))
        self.norm = nn.BatchNorm2d(biases * channels) if norm else None
        self.activation = ACTIVATIONS[activation]() if activation != "linear" else None

    def addend(self) -> Tensor:
        """float32 (K * C,)"""
        return self.bias.repeat_interleave(self.channels) if self.shared else self.bias

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x] * self.biases, dim=1) + self.addend()[:, None, None]
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def starting_biases(biases: int, start: Start) -> Tensor:
    """float32 (biases,): the paper's four, others evenly between the same ends, or drawn from a normal distribution."""
    if start == "normal":
        return torch.randn(biases)
    values = ENDS[start]
    return torch.tensor(values) if biases == len(values) else torch.linspace(values[0], values[-1], biases)


@dataclass(frozen=True)
class MultiBias(Layer):
    """Adds several biases that are learnt to each channel, side by side, then the activation: K times the channels.

    Li, Ouyang, Wang, "Multi-Bias Non-linear Activation in Deep Neural Networks", arXiv:1604.00676, 2016: behind
    convolution, BatchNorm and ReLU, K = 4 biases a channel and another ReLU. A convolution of a quarter of the filters
    gives as many maps, which parameters and multiply-accumulates then show.

    The study's variant (Salvi and Barros; the layer `multibias` of its published code, which no published
    configuration uses) has one set of biases for all channels (`shared`), drawn from a normal distribution, right
    behind a convolution without BatchNorm, and BatchNorm and LeakyReLU behind them (`batch_normalize`). BatchNorm takes
    the biases out again: what is left of the idea are its own scale and shift for each copy.

    biases: how many. start: wide (1, 0.5, -0.5, -1), narrow (0.3, 0.1, -0.1, -0.3), or normal (drawn); other numbers
    of biases lie evenly between these ends. A filter of zeros gives channels that are not zero, so filters before this
    layer are never taken out; those of other layers are, and single weights everywhere. PyTorch's exporter writes it
    to ONNX, in float; steps that give int8 refuse a network with it.
    """

    biases: int
    start: Start
    shared: bool
    batch_normalize: bool
    activation: Activation

    def given(self, taken: Sequence[FeatureMap]) -> FeatureMap:
        [before] = taken
        return FeatureMap(self.biases * before.channels, before.height, before.width)

    def module(self, taken: Sequence[FeatureMap]) -> ManyBiases:
        return ManyBiases(
            taken[0].channels, self.biases, self.start, self.shared, self.batch_normalize, self.activation
        )

    @property
    def keeps_zeros(self) -> bool:  # type: ignore[override]
        return False
