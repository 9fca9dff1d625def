"""Networks with the weights of another, its activations or image size changed; and those made for its task anew."""

from dataclasses import fields, replace
from typing import Literal

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.design import find_design
from detpress.detector.kinds import Yolo
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
    return _with_same_tensors(network, replace(architecture, layers=layers))


def at_side(network: Network, side: int) -> Network:
    """A network with the same tensors for images whose longer side has so many pixels, its anchors in proportion.

    Raises InputError where a side is no multiple of the largest stride.
    """
    architecture = network.architecture
    longest = max(architecture.input_size)
    height, width = (part * side // longest for part in architecture.input_size)
    layers = tuple(
        replace(layer, anchors=tuple((w * side / longest, h * side / longest) for w, h in layer.anchors))
        if isinstance(layer, Yolo)
        else layer
        for layer in architecture.layers
    )
    return _with_same_tensors(network, replace(architecture, layers=layers, image_size=(height, width)))


def same_task(given: Architecture, name: str, width: float) -> Architecture:
    """The architecture `name` with the classes and image size of `given`; with its anchors, too, if as many.

    Raises InputError as `build_architecture` does.
    """
    count = len(find_design(name).anchors)
    anchors = sorted(
        (anchor for layer in given.yolo_layers for anchor in layer.anchors), key=lambda side: side[0] * side[1]
    )
    side = max(given.input_size)
    found = build_architecture(
        name, given.classes, side, width, anchors if len(anchors) == count else None, given.resize
    )
    return replace(found, image_size=given.image_size)


def _with_same_tensors(network: Network, architecture: Architecture) -> Network:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return filled_network(architecture, network.encodings, tensors)


def _activation(layer: Layer) -> str | None:
    """None of a kind of layer that has none."""
    return str(layer.activation) if any(field.name == "activation" for field in fields(layer)) else None  # type: ignore[attr-defined]
