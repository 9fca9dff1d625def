"""What is done to each number of a map, behind a convolution or an addition."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from torch import nn

from detpress.detector.darknet_section import Section
from detpress.errors import InputError

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph

# As Darknet names them and defines them, but for hard_swish, which it has not:
#   leaky      x, 0.1 x below 0          logistic   1 / (1 + exp(-x))          mish         x tanh(log(1 + exp(x)))
#   relu       x, 0 below 0              swish      x / (1 + exp(-x))          hard_swish   x min(max(x + 3, 0), 6) / 6
#   relu6      min(max(x, 0), 6)         linear     x
Activation = Literal["leaky", "relu", "linear", "relu6", "logistic", "swish", "mish", "hard_swish"]

LEAKY_SLOPE = 0.1

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "logistic": nn.Sigmoid,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "hard_swish": nn.Hardswish,
}
_OF_DARKNET: dict[str, Activation] = {name: name for name in get_args(Activation) if name != "hard_swish"}


def keeps_zeros(activation: Activation) -> bool:
    return activation != "logistic"


def activation_to_onnx(graph: "Graph", activation: Activation, x: str, name: str) -> str:
    """Adds it to an ONNX graph; gives the name of its output, `x` itself where there is none."""
    match activation:
        case "leaky":
            return graph.add("LeakyRelu", [x], name, alpha=LEAKY_SLOPE)
        case "relu":
            return graph.add("Relu", [x], name)
        case "relu6":
            return graph.add("Clip", [x, *(graph.scalar(np.float32(end)) for end in (0, 6))], name)
        case "logistic":
            return graph.add("Sigmoid", [x], name)
        case "swish":
            return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{name}.sigmoid")], name)
        case "mish":
            softplus = graph.add("Softplus", [x], f"{name}.softplus")
            return graph.add("Mul", [x, graph.add("Tanh", [softplus], f"{name}.tanh")], name)
        case "hard_swish":
            return graph.add("HardSwish", [x], name)
        case "linear":
            return x


def read_activation(section: Section, default: Activation) -> Activation:
    """Of Darknet's section. Raises InputError for one that detpress does not compute."""
    activation = section.word("activation", default)
    if activation not in _OF_DARKNET:
        raise section.error(f"activation: {activation[:40]}; {', '.join(_OF_DARKNET)} are supported", "activation")
    return _OF_DARKNET[activation]


def of_darknet(activation: Activation) -> Activation:
    """The same. Raises InputError where Darknet does not have it."""
    if activation not in _OF_DARKNET:
        raise InputError(f"activation: Darknet has no {activation}")
    return activation
