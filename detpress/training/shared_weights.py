"""Training of weights that share values, or vectors of values, as an objective."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.utils import parametrize

from detpress.detector.network import Network, convolution_of, filled_network
from detpress.training.objective import Objective, TrainingStart

ORIGINAL = "parametrizations.weight.original"  # PyTorch's name for what a parametrization is computed from


class Codes(Protocol):
    """One convolution's weights by a codebook, and codes (int64) that say what of it each is."""

    @property
    def codebook(self) -> Tensor: ...

    @property
    def codes(self) -> Tensor: ...

    def weight(self, codebook: Tensor, codes: Tensor) -> Tensor:
        """What codes stand for: float32 (F, I, k, k)."""


class SharedValues(nn.Module):
    """A parameter that is a codebook: the convolution sees what the codes make of it."""

    codes: Tensor

    def __init__(self, start: Codes) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("codes", start.codes, persistent=False)

    def forward(self, codebook: Tensor) -> Tensor:
        return self.start.weight(codebook, self.codes)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.start.codebook.clone()


class SharedWeights(Objective):
    """Has the values learn in the place of the weights: which weights share one stays, and zeros stay zero.

    layers: the convolutions, by layer number.
    """

    def __init__(self, layers: Mapping[int, Codes]) -> None:
        super().__init__()
        self.starts = layers

    def prepare(self, start: TrainingStart) -> None:
        for i, codes in self.starts.items():
            share(start.network, i, codes)


def share(network: nn.Module, layer: int, start: Codes) -> None:
    """Makes the codebook the parameter of the convolution, in place."""
    parametrize.register_parametrization(convolution_of(network, layer), "weight", SharedValues(start))


def codebook_of(network: nn.Module, layer: int) -> Tensor:
    """float32, of a convolution whose weights share it."""
    return network.get_parameter(f"layers.{layer}.convolution.{ORIGINAL}").detach().clone()


def no_longer_shared(network: Network) -> Network:
    """A network of the same weights, each a parameter of its own again."""
    tensors = network.state_dict()
    for name in [name for name in tensors if name.endswith(ORIGINAL)]:
        convolution = name.removesuffix(f".{ORIGINAL}")
        module: Any = network.get_submodule(convolution)
        del tensors[name]
        tensors[f"{convolution}.weight"] = module.weight.detach()
    return filled_network(network.architecture, network.encodings, tensors)
