"""What rounding costs a network, layer by layer: signal-to-quantization-noise ratios, and what float would bring back.

    SQNR = 10 log10( sum of x^2 / sum of (x - y)^2 )   in decibels, x computed in float, y with rounding

Two ratios are measured of every quantized convolution. Its own: the float network runs, and the convolution computes
its output from the float input once in float and once rounded, so that no other layer's noise is in it. The output's:
of the raw maps, all layers rounded but this one, held against the raw maps with all layers rounded; how many decibels
they gain is what leaving the layer in float would bring.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detpress.detector.encoding import weight_shape
from detpress.detector.float32 import Float32, FoldedFloat32
from detpress.detector.folding import folded_weight
from detpress.detector.network import Network, convolution_of, with_encoded
from detpress.errors import InputError
from detpress.measure.size import layer_table
from detpress.progress import Progress

BATCH = 8  # images at a time


@dataclass(frozen=True)
class LayerSensitivity:
    """One quantized convolution.

    sqnr_db: its own ratio. gain_db: what the ratio of the raw maps gains when it alone is left in float.
    extra_bytes, float_macs: what that costs: bytes more for its weights, and multiply-accumulates for one image that
        are then computed in float.
    map_gain: of mAP, when it alone is left in float; None where it was not measured.
    """

    index: int
    name: str
    sqnr_db: float
    gain_db: float
    extra_bytes: int
    float_macs: int
    map_gain: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """output_sqnr_db: of the raw maps with every layer rounded that the network rounds. map: of that network."""

    output_sqnr_db: float
    layers: tuple[LayerSensitivity, ...]
    map: float | None = None

    def noise(self) -> dict[int, float]:
        """By layer number, how much of the raw maps' noise comes with its rounding, as a share of the signal's power.

        Nothing but the ratios above in another unit; added up over layers, an estimate of rounding all of them.
        """
        every = 10 ** (-self.output_sqnr_db / 10)
        return {row.index: every - 10 ** (-(self.output_sqnr_db + row.gain_db) / 10) for row in self.layers}

    def by_gain(self) -> list[LayerSensitivity]:
        """The layers, first those whose rounding costs the raw maps most."""
        return sorted(self.layers, key=lambda layer: (-layer.gain_db, layer.index))

    def as_dict(self) -> dict[str, Any]:
        return {
            "output_sqnr_db": self.output_sqnr_db,
            "map": self.map,
            "layers": [asdict(layer) for layer in self.layers],
        }


def signal_to_noise(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """In decibels, of (signal, signal with noise) taken together; infinite where nothing differs."""
    return _decibels(sum(_power(one) for one, _ in pairs), sum(_power(one - other) for one, other in pairs))


def _power(x: Tensor) -> float:
    return float(x.double().square().sum())


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def rounded_layers(network: Network) -> list[int]:
    """The convolutions that are not in float32, by layer number."""
    return [i for i, encoding in network.encodings.items() if not isinstance(encoding, Float32)]


def in_float(quantized: Network, parent: Network, layers: Collection[int]) -> Network:
    """`quantized` with some of its convolutions, by layer number, computed in float with the weights of `parent`."""
    folded = {i: dict(zip(("weight", "bias"), folded_weight(parent, i), strict=True)) for i in layers}
    return with_encoded(quantized, {i: (FoldedFloat32(), tensors) for i, tensors in folded.items()})


def measure_sensitivity(
    quantized: Network,
    parent: Network,
    images: Tensor,
    progress: Progress,
    mean_average_precision: Callable[[nn.Module], float] | None = None,
) -> Sensitivity:
    """The sensitivity of every convolution that `quantized` rounds, held against `parent`, its float original.

    images: float32 (N, 3, H, W) in [0, 1]. mean_average_precision: scores a network; one more run a layer.
    Raises InputError where the two are not the same network.
    """
    if quantized.architecture != parent.architecture:
        raise InputError("the float model has other layers than the quantized one; expected the one it was made of")
    layers = rounded_layers(quantized)
    with torch.inference_mode():
        wanted = _raw_maps(parent, images)
        output = signal_to_noise(list(zip(wanted, _raw_maps(quantized, images), strict=True)))
        own = _own_ratios(quantized, parent, images)
        gains = []
        for done, i in enumerate(layers):
            progress(f"layers.{i} in float", done, len(layers))
            found = _raw_maps(in_float(quantized, parent, [i]), images)
            gains.append(signal_to_noise(list(zip(wanted, found, strict=True))) - output)
    score, scores = None, dict.fromkeys(layers)
    if mean_average_precision is not None:
        score = mean_average_precision(quantized)
        scores = {i: mean_average_precision(in_float(quantized, parent, [i])) - score for i in layers}
    table = layer_table(quantized.architecture)
    rows = []
    for i, gain in zip(layers, gains, strict=True):
        own_convolution = convolution_of(quantized, i)
        filters, weights = weight_shape(own_convolution)[0], weight_shape(own_convolution).numel()
        extra = 4 * (weights + filters) - quantized.encodings[i].stored_bytes(own_convolution.state_dict())
        rows.append(LayerSensitivity(i, table[i].name, own[i], gain, extra, table[i].macs, scores[i]))
    return Sensitivity(output, tuple(rows), score)


def _raw_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    batches = [network(batch) for batch in torch.split(images, BATCH)]
    return [torch.cat(maps) for maps in zip(*batches, strict=True)]


def _own_ratios(quantized: Network, parent: Network, images: Tensor) -> dict[int, float]:
    """Each convolution on the input that the float network gives it: rounded, against not."""
    reference = in_float(quantized, parent, rounded_layers(quantized))
    sums = {i: [0.0, 0.0] for i in rounded_layers(quantized)}
    for i in sums:
        rounded = convolution_of(quantized, i)

        def add(module: nn.Module, given: Any, output: Tensor, i: int = i, rounded: nn.Module = rounded) -> None:
            sums[i][0] += _power(output)
            sums[i][1] += _power(output - rounded(given[0]))

        convolution_of(reference, i).register_forward_hook(add)
    for batch in torch.split(images, BATCH):
        reference(batch)
    return {i: _decibels(*both) for i, both in sums.items()}
