"""The bridge to INC's mixed precision: it says which convolutions compute in 16 bits, `Half` computes the same.

INC wraps a convolution in a module that runs it under autocast; the wrapper is a matter of memory and no file of its
own. What it computes is what a convolution with 16-bit weights does, and that is what is kept.
"""

import copy
import logging
from collections.abc import Collection

import torch
from torch import Tensor

from detpress.adapters.inc_work import inc_work
from detpress.detector.network import Network, convolution_name
from detpress.encodings.half import HalfType, half_network
from detpress.errors import StageError


def to_half_precision(
    network: Network, dtype: HalfType, float_layers: Collection[int], images: Tensor, log: logging.Logger
) -> Network:
    """`network` with the convolutions that INC puts into 16 bits; `network` itself is left as it was.

    float_layers: layer numbers of convolutions that stay in float32.
    images: float32 (N, 3, H, W) in [0, 1], on which the two are held against each other.
    Raises StageError where INC changed nothing, where the two differ by a bit, and where 16 bits overflow.
    """
    with inc_work(log):
        from neural_compressor.torch.algorithms.mixed_precision import HalfPrecisionModuleWrapper
        from neural_compressor.torch.quantization import MixedPrecisionConfig, convert, prepare

        config = MixedPrecisionConfig(dtype=dtype)
        for i in sorted(float_layers):
            config.set_local(convolution_name(i), MixedPrecisionConfig(dtype="fp32"))
        wrapped = convert(prepare(copy.deepcopy(network).eval(), config))
    layers = [
        i
        for i, block in enumerate(wrapped.layers)
        if isinstance(dict(block.named_children()).get("convolution"), HalfPrecisionModuleWrapper)
    ]
    if not layers:
        raise StageError("INC put no convolution into 16 bits")
    half = half_network(network, dtype, layers)
    with torch.inference_mode():
        for one, other in zip(wrapped(images), half(images), strict=True):
            if not other.isfinite().all():
                raise StageError(f"the network gives numbers that are not finite in {dtype}: beyond its range")
            if not torch.equal(one, other):
                raise StageError("INC's wrapped convolutions do not compute what 16-bit weights say")
    return half
