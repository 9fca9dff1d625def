"""The bridge to Intel Neural Compressor 3.10: it chooses scales, the int8 network that holds them is our own.

INC quantizes by PyTorch 2 export: `export` -> `prepare` (observers) -> calibrate -> `convert`. What it converts to is
a program that needs torchao and keeps its weights in float. Its graph is plain, though: on every convolution's input
a pair of quantize and dequantize nodes, on every weight another. The numbers are read off these nodes into a
`Network`, which computes bit for bit the same.
"""

import copy
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from detpress.adapters.inc_work import inc_work
from detpress.detector.architecture import Architecture
from detpress.detector.input_scale import InputScale
from detpress.detector.network import Network, convolution_name, filled_network, folded_but
from detpress.encodings.bias_correction import with_corrected_biases
from detpress.encodings.calibration import with_scales_between
from detpress.encodings.equalization import equalized
from detpress.encodings.int8 import LARGEST, Int8, largest_code
from detpress.errors import InputError, StageError

BATCH = 16  # calibration images computed at a time


@dataclass(frozen=True)
class Scheme:
    """How ranges become scales, in INC's words.

    algorithm: how an activation's range follows from what was seen: `minmax`, the smallest and the largest value of a
        batch, averaged over batches; `kl`, the range in which a histogram loses least by rounding.
    symmetric: an activation that is ever negative has its zero in the middle of its 256 values, whichever values it
        takes: every one, none, or those that a convolution pads (`padded`), where runtimes make up for another zero in
        every run.
    per_channel: one scale for each of a convolution's filters, or one for all of them.
    corrected: channels are equalized before depthwise convolutions, and biases make up for what rounding moves means
        by (`detpress.encodings.equalization`, `bias_correction`); INC does neither.
    full_range: weights use all of 8 bits; otherwise as many codes as every processor computes right (`largest_code`).
    """

    algorithm: Literal["minmax", "kl"] = "minmax"
    symmetric: bool | Literal["padded"] = "padded"
    per_channel: bool = True
    corrected: bool = True
    full_range: bool = False

    @property
    def equalizes(self) -> bool:
        """Where a layer has one scale for all its weights, factors would cost the smaller ones."""
        return self.corrected and self.per_channel

    def network_to_round(self, network: Network, images: Tensor) -> Network:
        """What is rounded: the same function, equalized on the calibration images where the scheme says so."""
        return equalized(network, images) if self.equalizes else network

    def config(self, float_layers: Collection[int]) -> Any:
        """INC's StaticQuantConfig, the convolutions of `float_layers` left in float.

        It has no symmetric activations: which are to be so, is known when they have been seen (`_centre_zeros`).
        """
        from neural_compressor.torch.quantization import StaticQuantConfig

        granularity = "per_channel" if self.per_channel else "per_tensor"
        config = StaticQuantConfig(act_algo=self.algorithm, act_sym=False, w_granularity=granularity)
        for i in sorted(float_layers):
            config.set_local(convolution_name(i), StaticQuantConfig(w_dtype="fp32", act_dtype="fp32"))
        return config


def quantize_static(
    network: nn.Module,
    architecture: Architecture,
    images: Tensor,
    scheme: Scheme,
    float_layers: Collection[int],
    log: logging.Logger,
) -> Network:
    """The int8 network with the scales that INC chooses; `network` is left as it was.

    images: float32 (N, 3, H, W) in [0, 1], to calibrate with.
    float_layers: layer numbers of convolutions that stay in float.
    Raises InputError without images, StageError where the network does not give finite numbers for them, and where INC
    quantized no convolution or something else than convolutions.
    """
    assert isinstance(network, Network)
    network = scheme.network_to_round(network, images)
    return corrected_network(inc_program(network, images, scheme, float_layers, log), network, images, scheme)


def corrected_network(program: torch.fx.GraphModule, network: Network, images: Tensor, scheme: Scheme) -> Network:
    """Our network of what INC made of `network`, its biases corrected where the scheme says so."""
    quantized = int8_network(program, network.architecture, images)
    return with_corrected_biases(quantized, network, images) if scheme.corrected else quantized


def int8_network(program: torch.fx.GraphModule, architecture: Architecture, images: Tensor) -> Network:
    """`network_of_program`, held against the program on two of the images that it was calibrated with.

    Raises StageError where the two differ by a bit: then the program rounds something else than convolutions.
    """
    quantized = network_of_program(program, architecture)
    with torch.inference_mode():
        pairs = zip(program(images[:2]), quantized(images[:2]), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise StageError(
                "the engine's program does not compute what its scales and weights say of its convolutions"
            )
    return with_scales_between(quantized, images)


def inc_program(
    network: nn.Module, images: Tensor, scheme: Scheme, float_layers: Collection[int], log: logging.Logger
) -> torch.fx.GraphModule:
    """INC's own result; for the arguments see `quantize_static`."""
    with inc_work(log, "torch"):
        from neural_compressor.torch.quantization import convert, prepare

        prepared = prepare(exported(network, images), scheme.config(float_layers))
        calibrate_convolutions(prepared, images, scheme)
        with torch.no_grad():
            converted = convert(prepared)
    assert isinstance(converted, torch.fx.GraphModule)
    return converted


def exported(network: nn.Module, images: Tensor) -> torch.fx.GraphModule:
    """The network as a program that takes any number of images, as INC's PyTorch 2 quantization wants it."""
    from neural_compressor.torch.export import export

    if not len(images):
        raise InputError("no calibration images: the activations' ranges cannot be known")
    any_batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    example = images[:1].repeat(2, 1, 1, 1)  # a batch of one would be taken for a constant
    program: torch.fx.GraphModule = export(copy.deepcopy(network).eval(), (example,), dynamic_shapes=(any_batch,))
    return program


def round_convolutions_only(prepared: torch.fx.GraphModule, full_range: bool) -> None:
    """Takes out what the engine would round for other operators. full_range: of the weights, see `Scheme`.

    It fuses a convolution without activation with an addition behind it, and rounds the addition's other input; it
    rounds what is pooled, too. Runtimes round these by scales of their own (`detpress.encodings.calibration`).
    """
    for node in list(prepared.graph.nodes):
        if node.op == "call_module" and hasattr(prepared.get_submodule(str(node.target)), "calculate_qparams"):
            for user in list(node.users):
                if user.target is not torch.ops.aten.conv2d.default:
                    user.replace_input_with(node, node.args[0])
            if not node.users:
                prepared.graph.erase_node(node)
    prepared.recompile()
    if not full_range:
        _narrow_weights(prepared)


def _narrow_weights(prepared: torch.fx.GraphModule) -> None:
    """Takes the codes away from the observers of weights that some processors would saturate with."""
    for node in _rounded_convolutions(prepared):
        largest = largest_code(_inputs(node), node.meta["val"].shape[1], _groups(node))
        if largest < LARGEST:
            for observer in prepared.get_submodule(str(node.args[1].target)).modules():
                if hasattr(observer, "quant_min"):
                    vars(observer).update(quant_min=-largest, quant_max=largest)


def _centre_zeros(calibrated: torch.fx.GraphModule, only_padded: bool) -> None:
    """Makes the observers of activations symmetric, unless what they have seen was never negative."""
    for node in _rounded_convolutions(calibrated):
        observer = calibrated.get_submodule(str(node.args[0].target))
        if float(observer.get_buffer("min_val")) < 0 and (not only_padded or _pads(node)):
            vars(observer).update(qscheme=torch.per_tensor_symmetric)


def _rounded_convolutions(prepared: torch.fx.GraphModule) -> list[Any]:
    """The nodes of convolutions whose input and weights pass observers."""
    convolutions = [node for node in prepared.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    return [node for node in convolutions if all(given.op == "call_module" for given in node.args[:2])]


def _inputs(convolution: Any) -> int:
    """How many channels it takes."""
    return int(convolution.args[0].args[0].meta["val"].shape[1])


def _groups(convolution: Any) -> int:
    return convolution.args[6] if len(convolution.args) > 6 else 1


def _pads(convolution: Any) -> bool:
    return len(convolution.args) > 4 and any(convolution.args[4])


def calibrate_convolutions(prepared: torch.fx.GraphModule, images: Tensor, scheme: Scheme) -> None:
    """As `calibrate`, and what is converted afterwards rounds for convolutions alone, as the scheme says."""
    round_convolutions_only(prepared, scheme.full_range)
    calibrate(prepared, images)
    if scheme.symmetric:
        _centre_zeros(prepared, only_padded=scheme.symmetric == "padded")


@torch.no_grad()
def calibrate(prepared: nn.Module, images: Tensor) -> None:
    """Shows `images` to the observers. Raises StageError where the network's raw maps are not finite."""
    for i, batch in enumerate(torch.tensor_split(images, -(-len(images) // BATCH))):
        for observer in prepared.modules():
            if hasattr(observer, "averaging_constant"):  # 0.01 by default: the first batch would decide alone
                setattr(observer, "averaging_constant", 1 / (i + 1))  # noqa: B010  mypy knows modules and tensors only
        if not all(raw.isfinite().all() for raw in prepared(batch)):
            raise StageError("the network to be quantized gives numbers that are not finite for the calibration images")


def network_of_program(program: torch.fx.GraphModule, architecture: Architecture) -> Network:
    """The int8 network with the numbers of INC's converted program.

    Raises StageError where none of its convolutions is quantized.
    """
    tensors, inputs = quantized_convolutions(program)
    if not inputs:
        raise StageError("INC quantized no convolution")
    encodings = {i: Int8(InputScale(float(x.args[1]), int(x.args[2]))) for i, x in inputs.items()}
    return filled_network(architecture, folded_but(architecture, encodings), tensors)


def quantized_convolutions(program: torch.fx.GraphModule) -> tuple[dict[str, Tensor], dict[int, Any]]:
    """What INC's converted program holds of its convolutions.

    Returns their weights, weight scales and biases, called as in the int8 network; and, by the layer number of each
    convolution that is quantized, the node that dequantizes its input.
    """
    state = program.state_dict()
    inputs: dict[int, Any] = {}
    tensors: dict[str, Tensor] = {}
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten.conv2d.default:
            continue
        x, weight, *more = node.args
        quantized = weight.op == "call_function"
        source = weight.args[0].args[0] if quantized else weight
        name = str(source.target).removesuffix(".weight")  # layers.4.convolution
        folded = state[f"{name}.weight"]
        bias = more[0] if more else None
        tensors[f"{name}.bias"] = torch.zeros(len(folded)) if bias is None else state[str(bias.target)]
        if not quantized:
            tensors[f"{name}.weight"] = folded
            continue
        # The node that quantizes gives the integers; its scale is a number for the whole layer, or one a filter.
        quantizing = weight.args[0]
        arguments = [
            state[str(part.target)] if isinstance(part, torch.fx.Node) else part for part in quantizing.args[1:]
        ]
        tensors[f"{name}.weight"] = quantizing.target(folded, *arguments)
        tensors[f"{name}.weight_scale"] = torch.as_tensor(arguments[0]).expand(len(folded))
        inputs[int(name.split(".")[1])] = x
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}, inputs
