"""Training of weights that are clipped and rounded to levels anew in every step, as an objective."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from detpress.detector.network import convolution_of
from detpress.encodings.clipping import clipped_levels
from detpress.encodings.shared import Clusters, looked_up
from detpress.training.objective import Objective, TrainingStart
from detpress.training.shared_weights import ORIGINAL


class Clipping(NamedTuple):
    """share: of a layer's weights that become zero. bits: of the codes of all its values, zero among them."""

    share: float
    bits: int


class ClippedWeight(nn.Module):
    """A parameter that the convolution sees the levels of: the gradient at the levels goes to the real weights."""

    def __init__(self, clipping: Clipping) -> None:
        super().__init__()
        self.clipping = clipping

    def forward(self, weight: Tensor) -> Tensor:
        found = clipped_levels(weight, *self.clipping)
        return weight + (looked_up(found.codebook, found.codes, found.sparse) - weight).detach()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class ClippedWeights(Objective):
    """Has real weights learn what their levels do; a weight that was clipped may come back.

    layers: the convolutions, by layer number.
    """

    def __init__(self, layers: Mapping[int, Clipping]) -> None:
        super().__init__()
        self.clippings = layers

    def prepare(self, start: TrainingStart) -> None:
        for i, clipping in self.clippings.items():
            parametrize.register_parametrization(convolution_of(start.network, i), "weight", ClippedWeight(clipping))


def levels_of(network: nn.Module, layer: int, clipping: Clipping) -> Clusters:
    """Of a convolution's real weights after the training."""
    return clipped_levels(network.get_parameter(f"layers.{layer}.convolution.{ORIGINAL}"), *clipping)
