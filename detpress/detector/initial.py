"""Initial weights other than PyTorch's, for a training that begins from nothing."""

import math

import torch
from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Route, Shortcut
from detpress.detector.network import convolution_of

PASSES_ZERO = ("leaky", "linear", "swish", "mish", "hard_swish")  # 0 stays 0, and a gradient comes back from there


def zero_residual_scales(network: nn.Module, architecture: Architecture) -> None:
    """The last BatchNorm of each residual block gets the scale 0: the block gives what it takes until it has learnt.

    He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", arXiv:1812.01187, 2019.
    """
    with torch.no_grad():
        for layer in ending_blocks(architecture):
            network.get_parameter(f"layers.{layer}.norm.weight").zero_()


def ending_blocks(architecture: Architecture) -> list[int]:
    """The convolutions with BatchNorm that a `Shortcut` adds to what it takes from further back.

    Those behind whose activation a zero would never change again, such as a ReLU, are not among them.
    """
    found = [
        number
        for i, layer in enumerate(architecture.layers)
        if isinstance(layer, Shortcut)
        for number in _last_convolutions(architecture, i - 1)
    ]
    return sorted(set(found))


def _last_convolutions(architecture: Architecture, number: int) -> list[int]:
    """Those whose outputs, side by side, are the output of layer `number`; none where it computes something else."""
    layer = architecture.layers[number]
    if isinstance(layer, Convolution):
        return [number] if layer.batch_normalize and layer.activation in PASSES_ZERO else []
    if isinstance(layer, Route) or layer.passes_on:
        return [found for source in layer.inputs(number) for found in _last_convolutions(architecture, source)]
    return []


def set_objectness_prior(network: nn.Module, architecture: Architecture, prior: float) -> None:
    """Every box begins with an objectness near `prior`, through the bias of the heads: -log((1 - prior) / prior).

    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, 2017, section 4.1, with 0.01, so that the
    many boxes without an object do not drown the first steps. Their other biases are 0 and their weights drawn from a
    normal distribution of deviation 0.01; here both stay as PyTorch draws them.
    """
    with torch.no_grad():
        for head, layer in zip(architecture.heads, architecture.yolo_layers, strict=True):
            bias = convolution_of(network, head).get_parameter("bias")
            bias.view(len(layer.anchors), -1)[:, 4] = -math.log((1 - prior) / prior)


def heads_have_biases(architecture: Architecture) -> bool:
    heads = (architecture.layers[head] for head in architecture.heads)
    return all(isinstance(head, Convolution) and head.bias and not head.batch_normalize for head in heads)
