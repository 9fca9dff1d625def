"""The bridge to Intel Neural Compressor 3.10: it chooses scales, the int8 network that holds them is our own.

INC quantizes by PyTorch 2 export: `export` -> `prepare` (observers) -> calibrate -> `convert`. What it converts to is
a program that needs torchao and keeps its weights in float. Its graph is plain, though: on every convolution's input
a pair of quantize and dequantize nodes, on every weight another. The numbers are read off these nodes into a
`QuantizedNetwork`, which computes bit for bit the same.
"""

import copy
import logging
from collections.abc import Collection
from typing import Literal

import neural_compressor.common  # noqa: F401  sets its logger up, which inside `engine_messages` would undo that
import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.calibration import with_scales_between
from detpress.detector.quantized import InputScale, Quantization, QuantizedNetwork
from detpress.engine_log import engine_messages
from detpress.errors import StageError

BATCH = 16  # calibration images computed at a time


def quantize_static(
    network: nn.Module,
    architecture: Architecture,
    images: Tensor,
    algorithm: Literal["minmax", "kl"],
    float_layers: Collection[int],
    log: logging.Logger,
) -> QuantizedNetwork:
    """The int8 network with the scales that INC chooses; `network` is left as it was.

    images: float32 (N, 3, H, W) in [0, 1], to calibrate with.
    algorithm: INC's name of how an activation's range follows from what was seen: `minmax`, the smallest and the
    largest value of a batch, averaged over batches; `kl`, the range in which a histogram loses least by rounding.
    float_layers: layer numbers of convolutions that stay in float.
    Raises StageError where INC quantized no convolution, or something else than convolutions.
    """
    program = inc_program(network, images, algorithm, float_layers, log)
    quantized = network_of_program(program, architecture)
    with torch.inference_mode():
        pairs = zip(program(images[:1]), quantized(images[:1]), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise StageError("INC's program does not compute what its scales and weights say of its convolutions")
    return with_scales_between(quantized, images)


def inc_program(
    network: nn.Module,
    images: Tensor,
    algorithm: Literal["minmax", "kl"],
    float_layers: Collection[int],
    log: logging.Logger,
) -> torch.fx.GraphModule:
    """INC's own result; for the arguments see `quantize_static`."""
    with engine_messages(log, "neural_compressor", "torch"):
        from neural_compressor.torch.export import export
        from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare

        config = StaticQuantConfig(act_algo=algorithm)
        for i in float_layers:
            config.set_local(f"layers.{i}.convolution", StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
        any_batch = {0: torch.export.Dim("batch", min=1, max=1024)}
        example = images[:1].repeat(2, 1, 1, 1)  # a batch of one would be taken for a constant
        program = export(copy.deepcopy(network).eval(), (example,), dynamic_shapes=(any_batch,))
        prepared = prepare(program, config)
        with torch.no_grad():
            for i, batch in enumerate(torch.tensor_split(images, -(-len(images) // BATCH))):
                for observer in prepared.modules():
                    if hasattr(observer, "averaging_constant"):  # 0.01 by default: the first batch would decide alone
                        observer.averaging_constant = 1 / (i + 1)
                prepared(batch)
            converted = convert(prepared)
    assert isinstance(converted, torch.fx.GraphModule)
    return converted


def network_of_program(program: torch.fx.GraphModule, architecture: Architecture) -> QuantizedNetwork:
    """The `QuantizedNetwork` with the numbers of INC's converted program.

    Raises StageError where none of its convolutions is quantized.
    """
    state = program.state_dict()
    inputs: dict[int, InputScale] = {}
    tensors: dict[str, Tensor] = {}
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.conv2d.default:
            continue
        x, weight, bias = node.args[:3]
        quantized = weight.op == "call_function"
        source = weight.args[0].args[0] if quantized else weight
        name = str(source.target).removesuffix(".weight")  # layers.4.convolution
        folded = state[f"{name}.weight"]
        tensors[f"{name}.bias"] = state[str(bias.target)]
        if not quantized:
            tensors[f"{name}.weight"] = folded
            continue
        scale, zero_point = (state[str(argument.target)] for argument in weight.args[1:3])
        tensors[f"{name}.weight"] = torch.ops.quantized_decomposed.quantize_per_channel(
            folded, scale, zero_point, 0, -128, 127, torch.int8
        )
        tensors[f"{name}.weight_scale"] = scale
        inputs[int(name.split(".")[1])] = InputScale(float(x.args[1]), int(x.args[2]))
    if not inputs:
        raise StageError("INC quantized no convolution")
    network = QuantizedNetwork(architecture, Quantization(dict(sorted(inputs.items()))))
    network.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()})
    return network.eval().requires_grad_(False)
