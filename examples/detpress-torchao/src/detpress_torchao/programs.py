"""A network as an exported program, with torchao's observers or fake-quantizers in it; and what they have chosen.

In what torchao converts to, a convolution's input and weights pass a pair of nodes that quantize and dequantize. The
numbers are read off these nodes; the weights are called as in the network's state, `layers.4.convolution.weight`.
"""

import copy
import logging
from typing import Any, Self

import torch
import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
from detpress.api import (
    Architecture,
    Form,
    InputScale,
    Model,
    Network,
    StageError,
    engine_messages,
    int8_network,
)
from torch import Tensor, nn
from torchao.quantization.pt2e import (
    HistogramObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    PerChannelMinMaxObserver,
    move_exported_model_to_eval,
    move_exported_model_to_train,
)
from torchao.quantization.pt2e.fake_quantize import FusedMovingAvgObsFakeQuantize
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec

BATCH = 16  # calibration images computed at a time


class Trained(nn.Module):
    """A program with fake-quantizers that gives raw maps as the network does, and can be trained like it."""

    def __init__(self, program: torch.fx.GraphModule, architecture: Architecture) -> None:
        super().__init__()
        self.program, self.architecture = program, architecture

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.program(images))

    def train(self, mode: bool = True) -> Self:
        """An exported program refuses `train` and `eval`; torchao rewrites its BatchNorms instead."""
        (move_exported_model_to_train if mode else move_exported_model_to_eval)(self.program)
        self.training = mode
        return self


def fake_quantized(network: Network, full_range: bool, log: logging.Logger) -> Trained:
    """`network` with rounding in the loop; BatchNorm learns, and is folded inside of it."""
    trained = copy.deepcopy(network).train().requires_grad_(True)
    with engine_messages(log, "torch", "torchao"):
        program = prepare_qat_pt2e(_exported(trained), _quantizer(True, full_range))
    return Trained(program, network.architecture)


def with_weights_of(network: Network, trained: nn.Module) -> Network:
    """`network` with the weights and BatchNorms that were trained."""
    assert isinstance(trained, Trained)
    state = trained.program.state_dict()
    found = copy.deepcopy(network)
    found.load_state_dict({name: state[name] for name in found.state_dict()})
    return found.eval()


def quantized(model: Model, images: Tensor, full_range: bool, log: logging.Logger) -> Model:
    """In int8. images: float32 (N, 3, H, W) in [0, 1], to calibrate with."""
    folded = int8_network(model.own_network, {}, images[:1])  # no convolution in int8
    with engine_messages(log, "torch", "torchao"), torch.no_grad():
        prepared = prepare_pt2e(_exported(folded), _quantizer(False, full_range))
        for batch in torch.split(images, BATCH):
            prepared(batch)
        # Folded, the integers would lose their names.
        inputs, scales = _chosen(convert_pt2e(prepared, fold_quantize=False))
    if not inputs:
        raise StageError("torchao quantized no convolution")
    log.info("%d convolutions in int8", len(inputs))
    return model.with_network(int8_network(model.own_network, inputs, images, scales), Form.INT8)


def _exported(network: nn.Module) -> torch.fx.GraphModule:
    """For any number of images; an example of one would be taken for a constant."""
    assert isinstance(network, Network)
    example = torch.zeros(2, 3, *network.architecture.input_size)
    any_batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(network, (example,), dynamic_shapes=(any_batch,)).module()
    assert isinstance(program, torch.fx.GraphModule)
    return program


def _quantizer(training: bool, full_range: bool) -> Any:
    """torchao's default for x86, but that it takes scales below 2**-12, which folded weights often have."""
    bits = (-128, 127) if full_range else (-64, 63)
    if training:
        of_input = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
        of_weight = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver)
    else:
        of_input, of_weight = HistogramObserver.with_args(), PerChannelMinMaxObserver.with_args()
    activation = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=of_input,
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=bits[0],
        quant_max=bits[1],
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=of_weight,
    )
    config = x86.QuantizationConfig(activation, None if training else activation, weight, None, training)
    return x86.X86InductorQuantizer().set_global(config)


def _chosen(program: torch.fx.GraphModule) -> tuple[dict[int, InputScale], dict[int, Tensor]]:
    """By layer number: how a convolution's input is rounded, and the scales of its weights, one a filter."""
    state = program.state_dict()
    inputs, scales = {}, {}
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.conv2d.default or node.args[1].op != "call_function":
            continue
        x, dequantized = node.args[:2]
        quantizing = dequantized.args[0]
        layer = int(str(quantizing.args[0].target).split(".")[1])
        if x.op != "call_function" or "dequantize" not in str(x.target):
            continue
        inputs[layer] = InputScale(float(x.args[1]), int(x.args[2]))
        scales[layer] = state[str(quantizing.args[1].target)]
    return inputs, scales
