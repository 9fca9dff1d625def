"""Quantization-aware training by PyTorch 2 export (torchao).

INC 3.10 has a `prepare_qat` of its own, for Linear layers and MX formats; it leaves convolutions alone. What INC
quantizes statically by is torchao's X86InductorQuantizer, and that has a form for training: `export` -> `prepare_qat`
(every rounded tensor passes a fake-quantizer, BatchNorm is kept and folded inside the loop) -> train. The trained
weights then go back into the float network, which INC quantizes as any other: the ranges are read anew in any case,
because no fake-quantizer has seen the moving average of the weights that a training ends with.
"""

import copy
import logging
from collections.abc import Collection
from typing import Any, Self

import torch
from torch import Tensor, nn

from detpress.adapters.inc import round_convolutions_only
from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.network import Network, convolution_name, weight_name
from detpress.engine_log import engine_messages


class FakeQuantizedNetwork(nn.Module):
    """Gives raw maps like `Network`, and can be trained like it: rounding passes gradients straight through."""

    def __init__(self, program: torch.fx.GraphModule, architecture: Architecture, dead: dict[str, Tensor]) -> None:
        """dead: parameter name in `program` -> bool tensor of its shape, False for the filters that stay zero."""
        super().__init__()
        self.program = program
        self.architecture = architecture
        self.masks = {f"program.{name}": alive for name, alive in dead.items()}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.program(images))

    def train(self, mode: bool = True) -> Self:
        """An exported program refuses `train` and `eval`; torchao rewrites its BatchNorms instead."""
        from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train

        (move_exported_model_to_train if mode else move_exported_model_to_eval)(self.program)
        self.training = mode
        return self


def fake_quantized(
    network: Network, float_layers: Collection[int], full_range: bool, log: logging.Logger
) -> FakeQuantizedNetwork:
    """`network`, ready for training; it is left as it was.

    float_layers: layer numbers left without rounding. full_range: see `Scheme`.
    """
    with engine_messages(log, "torch", "torchao"):
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        any_batch = {0: torch.export.Dim("batch", min=2, max=4096)}
        trained = copy.deepcopy(network).train().requires_grad_(True)
        dead = _dead_filters_at_rest(trained)
        example = (torch.zeros(2, 3, *network.architecture.input_size),)
        program = torch.export.export(trained, example, dynamic_shapes=(any_batch,)).module()

        class Quantizer(x86.X86InductorQuantizer):  # type: ignore[misc]  # torchao does not export its types
            def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
                """Takes off what it notes on convolutions left in float: torchao's fusion fails on an empty note."""
                annotated: torch.fx.GraphModule = super().annotate(model)
                for node in annotated.graph.nodes:
                    note = node.meta.get("quantization_annotation")
                    if node.target is torch.ops.aten.conv2d.default and note and not note.input_qspec_map:
                        del node.meta["quantization_annotation"]
                return annotated

        quantizer = Quantizer()
        quantizer.set_global(_rounding())
        for i in sorted(float_layers):
            quantizer.set_module_name_qconfig(convolution_name(i), None)
        prepared = prepare_qat_pt2e(program, quantizer)
        round_convolutions_only(prepared, full_range)
    return FakeQuantizedNetwork(prepared, network.architecture, dead)


def _dead_filters_at_rest(network: Network) -> dict[str, Tensor]:
    """Takes scales of 0 out of the BatchNorms of `network`, whose maps stay what they are; see FakeQuantizedNetwork.

    torchao multiplies a filter by its BatchNorm's gain, rounds, and divides the filter's map by the gain again. What a
    scale of 0 did, weights of 0 do; they are held, and the scale is such that their gradient is no larger than others.
    """
    masks = {}
    for i, layer in enumerate(network.architecture.layers):
        if not (isinstance(layer, Convolution) and layer.batch_normalize):
            continue
        weight, norm = (
            network.get_parameter(weight_name(i)),
            network.get_submodule(f"layers.{i}.norm"),
        )
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        dead = norm.weight.detach().abs() < torch.finfo(torch.float32).tiny
        if dead.any():
            with torch.no_grad():
                weight[dead] = 0
                norm.weight[dead] = norm.eps**0.5
                norm.running_mean[dead] = norm.running_var[dead] = 0
            masks[weight_name(i)] = ~dead[:, None, None, None].expand_as(weight)
    return masks


def _rounding() -> Any:
    """What INC rounds by a `Scheme`, in its form for training: inputs and weights of convolutions, no more.

    torchao's own default rounds every output as well, and takes no scale below 2**-12, which weights folded with their
    BatchNorm often need.
    """
    from torchao.quantization.pt2e import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
    from torchao.quantization.pt2e.fake_quantize import FusedMovingAvgObsFakeQuantize
    from torchao.quantization.pt2e.quantizer import QuantizationSpec
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import QuantizationConfig

    activation = QuantizationSpec(
        dtype=torch.uint8,
        quant_min=0,
        quant_max=255,
        qscheme=torch.per_tensor_symmetric,  # of every activation, the images, too: the coarsest that the end can have
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver),
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
            observer=MovingAveragePerChannelMinMaxObserver
        ),
    )
    return QuantizationConfig(
        input_activation=activation, output_activation=None, weight=weight, bias=None, is_qat=True
    )


def with_trained_weights(network: Network, trained: FakeQuantizedNetwork) -> Network:
    """`network` with the weights, and the statistics of BatchNorms, that `trained` has; both are left as they were."""
    state = trained.program.state_dict()
    result = copy.deepcopy(network)
    result.load_state_dict({name: state[name] for name in result.state_dict()})
    return result.eval()
