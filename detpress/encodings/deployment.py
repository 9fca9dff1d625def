"""A simulated network as the int8 network that computes the same."""

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Convolution
from detpress.detector.input_scale import InputScale
from detpress.detector.network import Network, convolution_name, filled_network, weight_name
from detpress.encodings.calibration import seen_inputs, with_scales_between
from detpress.encodings.dynamic_int8 import DynamicInt8
from detpress.encodings.int8 import Int8, largest_code
from detpress.encodings.simulated import Grid, Simulated
from detpress.errors import InputError


def deployed(network: nn.Module, images: Tensor, full_range: bool = False) -> Network:
    """The int8 network with the codes and scales of a simulated one; its missing scales are calibrated on `images`.

    images: float32 (N, 3, H, W) in [0, 1].
    full_range: all codes stay as they are; otherwise filters get coarser steps whose codes some processors would
        compute wrong (`largest_code`).
    Raises InputError as `deployable` does.
    """
    assert isinstance(network, Network)
    layers = deployable(network)
    missing = [i for i, layer in layers.items() if layer.input is None]
    seen = seen_inputs(network, missing, images) if missing else {}
    inputs = {i: _input_scale(i, layer.input) if layer.input else seen[i] for i, layer in layers.items()}
    encodings = network.encodings | {i: Int8(scale) for i, scale in inputs.items()}
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("weight_zero_point")}
    if not full_range:
        for i in layers:
            weight, scale = weight_name(i), f"{convolution_name(i)}.weight_scale"
            convolution = network.architecture.layers[i]
            assert isinstance(convolution, Convolution)
            filters, given = tensors[weight].shape[:2]
            largest = largest_code(given * convolution.groups, filters, convolution.groups)
            tensors[weight], tensors[scale] = _narrowed(tensors[weight], tensors[scale], largest)
    return with_scales_between(filled_network(network.architecture, encodings, tensors), images)


def _narrowed(codes: Tensor, scale: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """int8 codes (F, I, k, k) of at most `largest`, and the scales (F,) to them; filters within it keep theirs."""
    coarser = codes.abs().amax((1, 2, 3)).float().clamp(min=largest) / largest
    return (codes / coarser[:, None, None, None]).round().to(torch.int8), scale * coarser


def deployable(network: nn.Module) -> dict[int, Simulated]:
    """The simulated layers, by their numbers.

    Raises InputError, naming the layer, where codes or scales are not those of 8-bit integers.
    """
    assert isinstance(network, Network)
    layers: dict[int, Simulated] = {}
    for i, layer in network.encodings.items():
        if not layer.simulated:
            continue
        if isinstance(layer, DynamicInt8):
            raise InputError(
                f"layers.{i}: ranges that are taken anew in every run have no scales to keep; expected simulated ones"
            )
        if not isinstance(layer, Simulated):
            raise InputError(
                f"layers.{i}: encoded as {type(layer).__name__}; expected codes of 8 bits and their scales"
            )
        bits = layer.weight_bits if layer.weight_bits < 8 or layer.input is None else layer.input.bits
        if bits < 8:
            raise InputError(
                f"layers.{i}: simulated at {bits} bits; int8 executes 8, and would save nothing of the rest"
            )
        if network.get_buffer(f"{convolution_name(i)}.weight_zero_point").any():
            raise InputError(f"layers.{i}: its weights have zero points; int8 executes weights symmetric about 0")
        layers[i] = layer
    if not layers:
        raise InputError("no convolution is quantized")
    return layers


def _input_scale(i: int, grid: Grid) -> InputScale:
    """Codes counted from 0 on. A zero point that was learnt a code beyond them becomes the first, or the last."""
    learnt = round(grid.zero_point) - grid.lowest
    zero_point = min(max(learnt, 0), 255)
    if abs(zero_point - learnt) > 1:
        raise InputError(f"layers.{i}: the zero point of its inputs, {learnt}, is none of the codes 0 to 255")
    return InputScale(grid.scale, zero_point)
