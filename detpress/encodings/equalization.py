"""Channels of equal ranges before depthwise convolutions, so that one scale for all of them is fine enough for each.

    1x1 convolution -> BatchNorm -> leaky -> depthwise convolution
            channel c: gain and bias times s           weights / s, s = largest range / range of c

A leaky ReLU, a ReLU and no activation at all hand a positive factor on, so the network computes what it did before
rounding. Each filter on both sides has a scale of its own, so the factors cost the weights nothing.
"""

from collections import defaultdict

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.network import Network, convolution_name, convolution_of, filled_network, origin

HANDS_FACTORS_ON = frozenset({"leaky", "relu", "linear"})
LARGEST_FACTOR = 1024.0  # of a channel that hardly ever gives anything
BATCH = 16  # images computed at a time


@torch.no_grad()
def equalized(network: Network, images: Tensor) -> Network:
    """The same function, its depthwise convolutions' inputs of equal range in every channel.

    Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, arXiv:1906.04721, section 4.1; there the ranges are those of the weights, here those of the activations,
    and only depthwise convolutions are equalized, where nothing is to be traded between two sides.

    network: of float convolutions, left as it was. images: float32 (N, 3, H, W) in [0, 1].
    """
    pairs = equalized_pairs(network.architecture)
    if not pairs or not len(images):
        return network
    ranges: dict[int, list[Tensor]] = defaultdict(list)
    hooks = [
        convolution_of(network, i).register_forward_pre_hook(
            lambda _, taken, i=i: ranges[i].append(taken[0].abs().amax((0, 2, 3)))
        )
        for i in pairs.values()
    ]
    try:
        for batch in torch.tensor_split(images, -(-len(images) // BATCH)):
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    state = dict(network.state_dict())
    for before, depthwise in pairs.items():
        seen = torch.stack(ranges[depthwise]).mean(0)
        factor = (seen.max() / seen).nan_to_num(1, LARGEST_FACTOR).clamp(max=LARGEST_FACTOR)
        norm = f"layers.{before}.norm"
        scaled = norm if f"{norm}.weight" in state else convolution_name(before)
        for name in (f"{scaled}.weight", f"{scaled}.bias"):
            if name in state:  # the parts of a decomposed layer have no bias
                state[name] = state[name] * factor.reshape(-1, *[1] * (state[name].dim() - 1))
        weight = f"{convolution_name(depthwise)}.weight"
        state[weight] = state[weight] / factor[:, None, None, None]
    return filled_network(network.architecture, network.encodings, state, network.between)


def equalized_pairs(architecture: Architecture) -> dict[int, int]:
    """Convolutions whose output a depthwise one takes and nothing else does: layer number -> the depthwise one's."""
    takers: dict[int, list[int]] = defaultdict(list)
    for i, layer in enumerate(architecture.layers):
        if not layer.passes_on:
            for k in layer.inputs(i):
                takers[origin(architecture, k)].append(i)
    found = {}
    for i, layer in enumerate(architecture.layers):
        after = takers[i]
        if isinstance(layer, Convolution) and layer.activation in HANDS_FACTORS_ON and len(after) == 1:
            one = architecture.layers[after[0]]
            if isinstance(one, Convolution) and 1 < one.groups == one.filters == layer.filters:
                found[i] = after[0]
    return found
