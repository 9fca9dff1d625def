"""An int8 network from a float one and scales, whoever chose them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from detpress.detector.encoding import geometry
from detpress.detector.folding import folded_weight
from detpress.detector.input_scale import InputScale
from detpress.detector.network import Network, convolution_name, convolution_of, filled_network, folded_but
from detpress.encodings.calibration import with_scales_between
from detpress.encodings.int8 import Int8, largest_code
from detpress.errors import InputError


def int8_network(
    network: Network,
    inputs: Mapping[int, InputScale],
    images: Tensor,
    weight_scales: Mapping[int, Tensor] | None = None,
    folded: Mapping[int, tuple[Tensor, Tensor]] | None = None,
) -> Network:
    """`network` in int8 where `inputs` has a scale for a convolution's input, BatchNorm folded in everywhere.

    inputs: by layer number. images: float32 (N, 3, H, W) in [0, 1]; the scales between convolutions are read from them.
    weight_scales: by layer number, float32 (F,), of the folded weights; by default the largest of a filter is
        `largest_code`.
    folded: by layer number, weights (F, I, k, k) and biases (F,), BatchNorm in them, where the chooser of scales has
        changed them, as bias correction does.
    Raises InputError where a layer is no convolution, and for scales that do not fit it.
    """
    encodings = folded_but(network.architecture, {i: Int8(scale) for i, scale in inputs.items()})
    tensors = {}
    for i in encodings:
        name = convolution_name(i)
        weight, tensors[f"{name}.bias"] = (folded or {}).get(i) or folded_weight(network, i)
        if i in inputs:
            of = convolution_of(network, i)
            largest = largest_code(geometry(of).groups * weight.shape[1], len(weight), geometry(of).groups)
            scale = (weight_scales or {}).get(i, weight.abs().flatten(1).amax(1) / largest)
            if scale.shape != weight.shape[:1] or not (scale.isfinite().all() and (scale >= 0).all()):
                raise InputError(
                    f"layers.{i}: weight scales {tuple(scale.shape)}; expected {len(weight)}, none negative"
                )
            scale = scale.where(scale > 0, torch.ones_like(scale))  # of a filter without weights
            tensors[f"{name}.weight_scale"] = scale
            weight = (weight / scale[:, None, None, None]).round().clamp(-128, 127).to(torch.int8)
        tensors[f"{name}.weight"] = weight
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    return with_scales_between(filled_network(network.architecture, encodings, kept), images)
