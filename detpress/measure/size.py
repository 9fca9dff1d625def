"""How large a model is, by arithmetic from its layer list and its tensors; nothing is run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.layer_kinds import kind_name
from detpress.detector.model import Model
from detpress.encodings.dynamic import DynamicConvolution
from detpress.encodings.half import HalfConvolution
from detpress.encodings.packed import PackedConvolution
from detpress.encodings.quantized import QuantizedConvolution
from detpress.encodings.simulated import SimulatedConvolution

Kind = TypeVar("Kind", bound=nn.Module)
STATISTICS = ("running_mean", "running_var")  # BatchNorm's


@dataclass(frozen=True)
class LayerSize:
    """One layer of `detpress model`.

    channels, side: of the map that the layer gives for a square input of `Architecture.image_size` pixels.
    parameters: weights, biases, and BatchNorm's scale and shift.
    macs: multiply-accumulates with weights for one image; 0 for a layer that has none.
    """

    index: int
    name: str
    type: str
    channels: int
    side: int
    parameters: int
    macs: int


def layer_table(architecture: Architecture, image_size: int | None = None) -> list[LayerSize]:
    """One row a layer. `image_size`: pixels, a multiple of 32; the architecture's own by default."""
    at_size = replace(architecture, image_size=image_size or architecture.image_size)
    return [
        LayerSize(
            i,
            f"layers.{i}",
            kind_name(type(layer)),
            given.channels,
            given.side,
            layer.parameters(taken),
            layer.macs(taken, given),
        )
        for i, (layer, taken, given) in enumerate(
            zip(at_size.layers, at_size.taken_maps, at_size.output_maps, strict=True)
        )
    ]


def macs(architecture: Architecture, image_size: int | None = None) -> int:
    """Multiply-accumulates of the convolutions for one image; biases, activations and BatchNorm are not counted."""
    return sum(row.macs for row in layer_table(architecture, image_size))


def parameter_count(network: nn.Module) -> int:
    """Parameters stored, zeros among them; a quantized weight is one parameter like a float one, its scale is none."""
    return sum(parameter.numel() for parameter in _parameters(network))


def nonzero_parameters(model: Model) -> int:
    """Parameters that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in _parameters(model.network))


def storage_bytes(model: Model) -> dict[str, int]:
    """Bytes of the tensors under each encoding, file headers not counted; what is on disk is the bundle's.

    dense_fp32: 4 bytes for every parameter, zeros among them, and every mean and variance of a BatchNorm.
    int8: of an int8 model, or one rounded dynamically, 1 byte for a quantized weight and 4 for anything else, its
        scales among them.
    half: of a model in 16 bits, 2 bytes for a parameter of a convolution that computes in them and 4 for anything else.
    packed: of a packed model, its codes as they are stored, 2 bytes for a scale and a zero of a group, and 4 for
        anything else. Of a simulated model, as many bits for a quantized weight as its codes need, each layer filled up
        to whole bytes, and 4 bytes for anything else: a scale and a bias a filter, its zero point where it is not 0.
    """
    network = model.network
    tensors = [tensor for name, tensor in network.state_dict().items() if not name.endswith("batches_tracked")]
    stored = sum(tensor.nbytes for tensor in tensors)
    statistics = sum(tensor.numel() for name, tensor in network.named_buffers() if name.endswith(STATISTICS))
    encodings = {"dense_fp32": 4 * (parameter_count(network) + statistics)}
    if any(isinstance(module, QuantizedConvolution | DynamicConvolution) for module in network.modules()):
        encodings["int8"] = stored
    if _modules(network, HalfConvolution):
        encodings["half"] = stored
    if _modules(network, PackedConvolution):
        encodings["packed"] = stored
    if simulated := _modules(network, SimulatedConvolution):
        needless = sum(module.weight.nbytes - _packed_bytes(module) for module in simulated)
        zeros = sum(module.weight_zero_point.nbytes for module in simulated if not module.weight_zero_point.any())
        encodings["packed"] = stored - needless - zeros
    return encodings


def _packed_bytes(module: SimulatedConvolution) -> int:
    """Of the weights' codes, written one after the other without a gap."""
    return -(-module.weight.numel() * module.simulated.weight_bits // 8)


def _parameters(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    for quantized in _modules(network, QuantizedConvolution):
        yield quantized.weight
        yield quantized.bias
    for dynamic in _modules(network, DynamicConvolution):
        yield dynamic.weight
        yield dynamic.bias
    for simulated in _modules(network, SimulatedConvolution):
        yield simulated.float_weight
        yield simulated.bias
    for packed in _modules(network, PackedConvolution):
        yield packed.weight
        yield packed.bias


def _modules(network: nn.Module, kind: type[Kind]) -> list[Kind]:
    return [module for module in network.modules() if isinstance(module, kind)]
