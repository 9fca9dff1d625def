"""Biases that make up for what rounding moves a channel's mean by."""

import torch
from torch import Tensor

from detpress.detector.network import Network, convolution_name, convolution_of, filled_network, origin, run_layers

IMAGES = 16  # computed at once


@torch.no_grad()
def with_corrected_biases(quantized: Network, network: Network, images: Tensor) -> Network:
    """`quantized` with biases such that its convolutions give the same mean in every channel as those of `network`.

        bias + mean of what the float convolution (and BatchNorm) gives - mean of what the quantized one gives

    Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight Equalization and Bias Correction",
    ICCV 2019, arXiv:1906.04721, section 4.2 and appendix D: one convolution after the other, each on what the corrected
    ones before it give.

    images: float32 (N, 3, H, W) in [0, 1], of which the first 16 are taken. Both networks are left as they were.
    """
    architecture, images = quantized.architecture, images[:IMAGES]
    expected: dict[int, Tensor] = {}
    shifts: dict[int, Tensor] = {}

    def expect(i: int, given: Tensor) -> None:
        expected[i] = given.mean((0, 2, 3))

    def correct(i: int, given: Tensor) -> Tensor:
        shifts[i] = expected[i] - given.mean((0, 2, 3))
        return given + shifts[i][:, None, None]

    def taken(layer: int, x: Tensor) -> Tensor:
        scale = quantized.between.get(f"layers.{origin(architecture, layer)}")
        return scale.rounded(x) if scale else x

    hooks = []
    for i in quantized.encodings:
        block = network.get_submodule(f"layers.{i}")
        last = dict(block.named_children()).get("norm", convolution_of(network, i))
        hooks.append(last.register_forward_hook(lambda _, __, given, i=i: expect(i, given)))
        own = convolution_of(quantized, i)
        hooks.append(own.register_forward_hook(lambda _, __, given, i=i: correct(i, given)))
    try:
        network(images)
        run_layers(architecture, quantized.layers, images, taken)
    finally:
        for hook in hooks:
            hook.remove()
    state = dict(quantized.state_dict())
    for i, shift in shifts.items():
        state[f"{convolution_name(i)}.bias"] = state[f"{convolution_name(i)}.bias"] + shift
    return filled_network(architecture, quantized.encodings, state, quantized.between)
