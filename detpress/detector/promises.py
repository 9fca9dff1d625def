"""What other packages' kinds of layers and encodings say of themselves is held against what they do."""

import torch
from torch import Tensor, nn

from detpress.detector.encoding import weight_shape
from detpress.detector.kinds import Convolution
from detpress.detector.network import (
    Network,
    check_tensors,
    convolution_name,
    convolution_of,
    encoded_block,
    without_memory,
)
from detpress.errors import InputError


def check_layers(network: nn.Module) -> None:
    """Raises InputError, naming it, where a layer gives another map, or has other parameters, than it says."""
    assert isinstance(network, Network)
    architecture, given = network.architecture, network.architecture.output_maps
    foreign = [i for i, layer in enumerate(architecture.layers) if _is_foreign(layer)]
    for i in foreign:
        if i in network.encodings:  # a convolution: what it keeps is its encoding's
            continue
        layer, taken = architecture.layers[i], architecture.taken_maps[i]
        said, found = layer.parameters(taken), sum(p.numel() for p in network.layers[i].parameters())
        if said != found:
            raise InputError(f"layer {i}: {type(layer).__name__} says {said} parameters, and its module has {found}")

    def check(i: int, found: object) -> None:
        said = given[i]
        shape = tuple(found.shape[1:]) if isinstance(found, Tensor) else type(found).__name__
        if shape != (said.channels, said.height, said.width):
            raise InputError(f"layer {i}: {type(architecture.layers[i]).__name__} says {said}, and gives {shape}")

    hooks = [network.layers[i].register_forward_hook(lambda *seen, i=i: check(i, seen[2])) for i in foreign]
    try:
        if foreign:
            with torch.inference_mode():
                network(torch.zeros(1, 3, *architecture.input_size))
    finally:
        for hook in hooks:
            hook.remove()


def check_encodings(network: Network) -> None:
    """Raises InputError, naming layer and encoding, where a layer keeps other tensors than the encoding's module has,
    none that is called `bias`, or such that weights of another shape come of them."""
    architecture = network.architecture
    for i, encoding in network.encodings.items():
        layer, name, said = architecture.layers[i], convolution_name(i), type(encoding).__name__
        if not _is_foreign(encoding):
            continue
        assert isinstance(layer, Convolution)
        with without_memory():
            block = encoded_block(layer, architecture.taken_maps[i][0].channels, encoding)
        expected, found = _state(block, i), _state(network.layers[i], i)
        check_tensors(expected, found, network.encodings)
        if not (encoding.keeps_norm or f"{name}.bias" in found):
            raise InputError(f"{name} ({said}) keeps no tensor `bias`; expected float32 [{layer.filters}]")
        convolution = convolution_of(network, i)
        shape = weight_shape(convolution)
        weight = encoding.weight(convolution.state_dict(), shape)
        if weight.shape != shape:
            raise InputError(f"{name} ({said}) stands for weights {list(weight.shape)}; expected {list(shape)}")


def _state(module: nn.Module, layer: int) -> dict[str, Tensor]:
    """Its tensors, by their names in the network that it is layer `layer` of."""
    return {f"layers.{layer}.{name}": tensor for name, tensor in module.state_dict().items()}


def _is_foreign(part: object) -> bool:
    return type(part).__module__.partition(".")[0] != "detpress"
