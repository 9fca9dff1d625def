"""Training of weights that share values, as an objective."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from detpress.detector.network import Network, convolution_of, filled_network
from detpress.encodings.shared import Clusters, looked_up
from detpress.training.objective import Objective, TrainingStart

ORIGINAL = "parametrizations.weight.original"  # PyTorch's name for what a parametrization is computed from


class SharedValues(nn.Module):
    """A parameter that is a codebook: the convolution sees what the codes make of it."""

    codes: Tensor

    def __init__(self, clusters: Clusters) -> None:
        super().__init__()
        self.start, self.sparse = clusters.codebook, clusters.sparse
        self.register_buffer("codes", clusters.codes, persistent=False)

    def forward(self, codebook: Tensor) -> Tensor:
        return looked_up(codebook, self.codes, self.sparse)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.start.clone()


class SharedWeights(Objective):
    """Has the values learn in the place of the weights: which weights share one stays, and zeros stay zero.

    layers: the convolutions, by layer number.
    """

    def __init__(self, layers: Mapping[int, Clusters]) -> None:
        super().__init__()
        self.clusters = layers

    def prepare(self, start: TrainingStart) -> None:
        for i, clusters in self.clusters.items():
            share(start.network, i, clusters)


def share(network: nn.Module, layer: int, clusters: Clusters) -> None:
    """Makes the codebook the parameter of the convolution, in place."""
    parametrize.register_parametrization(convolution_of(network, layer), "weight", SharedValues(clusters))


def codebook_of(network: nn.Module, layer: int) -> Tensor:
    """float32 (values,), of a convolution that shares them."""
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
