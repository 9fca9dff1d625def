"""The bridge to INC's dynamic quantization: int8 weights, and inputs rounded by the range that each run has."""

import logging
from collections.abc import Collection

import torch
from torch import Tensor, nn

from detpress.adapters.inc import exported, quantized_convolutions
from detpress.adapters.inc_work import inc_work
from detpress.detector.architecture import Architecture
from detpress.detector.network import Network, convolution_name, filled_network, folded_but
from detpress.encodings.dynamic_int8 import DynamicInt8
from detpress.errors import StageError


def quantize_dynamic(
    network: nn.Module,
    architecture: Architecture,
    images: Tensor,
    per_channel: bool,
    float_layers: Collection[int],
    log: logging.Logger,
) -> Network:
    """The network with the weights that INC rounds; `network` is left as it was.

    images: float32 (N, 3, H, W) in [0, 1], on which the two are held against each other.
    per_channel: one scale for each filter's weights, or one for the layer's.
    float_layers: layer numbers of convolutions that stay in float.
    Raises StageError where INC quantized no convolution, and where the two compute differently.
    """
    with inc_work(log, "torch"):
        from neural_compressor.torch.quantization import DynamicQuantConfig, convert, prepare

        config = DynamicQuantConfig(w_granularity="per_channel" if per_channel else "per_tensor")
        for i in sorted(float_layers):
            config.set_local(convolution_name(i), DynamicQuantConfig(w_dtype="fp32", act_dtype="fp32"))
        prepared = prepare(exported(network, images), config)
        with torch.no_grad():
            prepared(images)
            program = convert(prepared)
    tensors, inputs = quantized_convolutions(program)
    if not inputs:
        raise StageError("INC quantized no convolution")
    encodings = folded_but(architecture, dict.fromkeys(inputs, DynamicInt8()))
    dynamic = filled_network(architecture, encodings, tensors)
    with torch.inference_mode():
        pairs = zip(program(images), dynamic(images), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise StageError("INC's program does not compute what its weights say of its convolutions")
    return dynamic
