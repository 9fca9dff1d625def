"""How large a model is, by arithmetic from its layer list and its tensors; nothing is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.encoding import SIXTEEN_BITS, Encoding
from detpress.detector.folding import stored_weight
from detpress.detector.layer_kinds import kind_name
from detpress.detector.model import Model
from detpress.detector.network import Network, convolution_name, convolution_of

STATISTICS = ("running_mean", "running_var")  # BatchNorm's


@dataclass(frozen=True)
class LayerSize:
    """One layer of `detpress model`.

    channels, side: of the map that the layer gives for an input of `Architecture.image_size` pixels; height and width
        where they differ.
    parameters: weights, biases, and BatchNorm's scale and shift.
    macs: multiply-accumulates with weights for one image; 0 for a layer that has none.
    """

    index: int
    name: str
    type: str
    channels: int
    side: int | tuple[int, int]
    parameters: int
    macs: int


def layer_table(architecture: Architecture, image_size: int | tuple[int, int] | None = None) -> list[LayerSize]:
    """One row a layer. `image_size`: pixels, as an architecture has them; its own by default."""
    at_size = replace(architecture, image_size=image_size or architecture.image_size)
    return [
        LayerSize(
            i,
            at_size.names[i],
            kind_name(type(layer)),
            given.channels,
            given.size,
            layer.parameters(taken),
            layer.macs(taken, given),
        )
        for i, (layer, taken, given) in enumerate(
            zip(at_size.layers, at_size.taken_maps, at_size.output_maps, strict=True)
        )
    ]


def stored_table(model: Model) -> list[LayerSize]:
    """As `layer_table`, but the parameters are those that the model stores, as `parameter_count` has them."""
    network = model.network
    assert isinstance(network, Network)
    return [
        replace(row, parameters=sum(parameter.numel() for parameter in _parameters_of(network, row.index)))
        for row in layer_table(network.architecture)
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
    """Bytes of the tensors, file headers not counted; what is on disk is the bundle's.

    dense_fp32: 4 bytes for every parameter, zeros among them, and every mean and variance of a BatchNorm.
    int8, half or packed: as the model's layers are encoded (see `Encoding.stored_bytes`); by the first of these that
        one of its layers is: in 8-bit integers, in 16 bits, in other few bits. Whatever is not encoded has 4 bytes.
    """
    network = model.network
    statistics = sum(tensor.numel() for name, tensor in network.named_buffers() if name.endswith(STATISTICS))
    found = {"dense_fp32": 4 * (parameter_count(network) + statistics)}
    encodings = model.encodings
    precisions = {encoding.precision for encoding in encodings.values()}
    if "int8" in precisions:
        found["int8"] = _stored(network, encodings)
    elif precisions & SIXTEEN_BITS:
        found["half"] = _stored(network, encodings)
    elif any(encoding.stored_bits < 32 for encoding in encodings.values()):
        found["packed"] = _stored(network, encodings)
    return found


def _stored(network: nn.Module, encodings: Mapping[int, Encoding]) -> int:
    tensors = network.state_dict()
    total: int = 0
    for i, encoding in encodings.items():
        convolution = convolution_of(network, i).state_dict()
        total += encoding.stored_bytes(convolution)
        for name in convolution:
            del tensors[f"{convolution_name(i)}.{name}"]
    others = [tensor for name, tensor in tensors.items() if not name.endswith("batches_tracked")]
    return total + sum(int(tensor.nbytes) for tensor in others)


def _parameters(network: nn.Module) -> Iterator[Tensor]:
    """Weights as they are stored, biases, and BatchNorm's scales and shifts."""
    if not isinstance(network, Network):  # on its way through an engine
        yield from network.parameters()
        return
    for i in range(len(network.layers)):
        yield from _parameters_of(network, i)


def _parameters_of(network: Network, layer: int) -> Iterator[Tensor]:
    encoded = layer in network.encodings
    if encoded:
        yield stored_weight(network, layer)
        convolution = convolution_of(network, layer).state_dict()
        if "bias" in convolution:
            yield convolution["bias"]
    for name, parameter in network.layers[layer].named_parameters():
        if not (encoded and name.startswith("convolution.")):
            yield parameter
