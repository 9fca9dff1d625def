"""The same weights with other activations between them."""

from dataclasses import fields, replace
from typing import Literal

from detpress.detector.architecture import Architecture
from detpress.detector.layer import Layer
from detpress.detector.network import Network, filled_network

Rectifier = Literal["relu", "relu6", "leaky"]
STAY = ("linear", "logistic")  # no activation, and the gate of a squeeze-and-excitation


def other_activations(architecture: Architecture, to: Rectifier) -> tuple[int, ...]:
    """The layers whose activation is another one, but for linear ones and gates."""
    return tuple(i for i, layer in enumerate(architecture.layers) if _activation(layer) not in (None, to, *STAY))


def with_activations(network: Network, to: Rectifier) -> Network:
    """A network with the same tensors, in which `to` stands for each of `other_activations`; the given one stays."""
    architecture = network.architecture
    chosen = other_activations(architecture, to)
    layers = tuple(
        replace(layer, activation=to) if i in chosen else layer  # type: ignore[call-arg]
        for i, layer in enumerate(architecture.layers)
    )
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return filled_network(replace(architecture, layers=layers), network.encodings, tensors)


def _activation(layer: Layer) -> str | None:
    """None of a kind of layer that has none."""
    return str(layer.activation) if any(field.name == "activation" for field in fields(layer)) else None  # type: ignore[attr-defined]
