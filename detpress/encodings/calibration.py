"""The ranges of what lies between an int8 network's convolutions, read from calibration images."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from detpress.detector.architecture import Convolution, MaxPool, Upsample
from detpress.detector.input_scale import MIDDLE, InputScale
from detpress.detector.network import (
    Network,
    convolution_name,
    convolution_of,
    filled_network,
    needed_later,
    origin,
    run_layers,
)
from detpress.encodings.before_leaky import BeforeLeaky
from detpress.encodings.int8 import input_scales
from detpress.errors import InputError

BATCH = 16  # images computed at a time


def with_scales_between(network: Network, images: Tensor) -> Network:
    """The same network, its tensors shared, with `Network.between` filled in.

    images: float32 (N, 3, H, W) in [0, 1], those that the convolutions' inputs were calibrated on.
    A range goes from the smallest to the largest value of a batch, averaged over batches; a tensor that a quantized
    convolution takes has that convolution's scale. Where all of those that are ever negative are symmetric, the others
    are so, too. What a leaky ReLU takes has the range of `BeforeLeaky`. What a convolution in float gives stays in
    float, and so do the raw maps.
    """
    architecture, inputs = network.architecture, input_scales(network)
    ranges = _Ranges()

    def taken(layer: int, x: Tensor) -> Tensor:
        ranges.see(f"layers.{origin(architecture, layer)}", x)
        return x

    hooks = [
        convolution_of(network, i).register_forward_hook(
            lambda _, __, given, i=i: ranges.see(convolution_name(i), given)
        )
        for i in inputs
        if i not in architecture.heads
    ]
    _run(lambda batch: run_layers(architecture, network.layers, batch, taken), images, hooks)
    zeros = {scale.zero_point for scale in inputs.values()}
    between = ranges.scales(symmetric=MIDDLE in zeros and zeros <= {0, MIDDLE})
    leaky = {
        i: ranges.mean(convolution_name(i))
        for i, layer in enumerate(architecture.layers)
        if i in inputs
        and isinstance(layer, Convolution)
        and layer.activation == "leaky"
        and i not in architecture.heads
    }
    between |= _scales_before_leaky(network, leaky, images)
    between |= {f"layers.{origin(architecture, i - 1)}": scale for i, scale in inputs.items() if i > 0}
    shared = needed_later(architecture)
    for i, layer in reversed(list(enumerate(architecture.layers))):
        if isinstance(layer, Upsample | MaxPool) and i - 1 not in shared and f"layers.{i}" in between:
            # Neither changes a value: rounding before or after is the same, and with one scale it is done in integers.
            between[f"layers.{i - 1}"] = between[f"layers.{i}"]
    for i, layer in enumerate(architecture.layers):
        if isinstance(layer, Convolution) and i not in inputs:
            between.pop(f"layers.{i}", None)
    return filled_network(architecture, network.encodings, network.state_dict(), between)


def seen_inputs(network: Network, layers: Sequence[int], images: Tensor) -> dict[int, InputScale]:
    """The scales of what these convolutions take of the images; ranges as in `with_scales_between`."""
    ranges = _Ranges()
    hooks = [
        convolution_of(network, i).register_forward_pre_hook(lambda _, taken, i=i: ranges.see(str(i), taken[0]))
        for i in layers
    ]
    _run(network, images, hooks)
    return {int(i): scale for i, scale in ranges.scales().items()}


def _scales_before_leaky(
    network: Network, ends: Mapping[int, tuple[float, float]], images: Tensor
) -> dict[str, InputScale]:
    """ends: of the ranges of what the convolutions of these layer numbers give."""
    seen = {i: BeforeLeaky(*pair) for i, pair in ends.items()}
    hooks = [
        convolution_of(network, i).register_forward_hook(lambda _, __, given, i=i: seen[i].see(given)) for i in seen
    ]
    _run(network, images[:BATCH], hooks)
    return {convolution_name(i): InputScale.of_range(*values.best_range()) for i, values in seen.items()}


class _Ranges:
    """Smallest and largest values of tensors by name, averaged over batches."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def see(self, name: str, x: Tensor) -> None:
        self.seen[name].append((float(x.min()), float(x.max())))

    def mean(self, name: str) -> tuple[float, float]:
        low, high = torch.tensor(self.seen[name], dtype=torch.float64).mean(dim=0)
        return float(low), float(high)

    def scales(self, symmetric: bool = False) -> dict[str, InputScale]:
        return {name: InputScale.of_range(*self.mean(name), symmetric) for name in self.seen}


def _run(network: Callable[[Tensor], object], images: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """Batch by batch; the hooks are taken off afterwards. Raises InputError without images."""
    try:
        if not len(images):
            raise InputError("no calibration images: the activations' ranges cannot be known")
        with torch.no_grad():
            for batch in torch.tensor_split(images, -(-len(images) // BATCH)):
                network(batch)
    finally:
        for hook in hooks:
            hook.remove()
