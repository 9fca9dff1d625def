"""The float network that computes what encoded weights stand for."""

from dataclasses import replace

from torch import Tensor

from detpress.detector.architecture import Convolution
from detpress.detector.encoding import Encoding
from detpress.detector.float32 import Float32, FoldedFloat32
from detpress.detector.folding import stored_weight
from detpress.detector.network import Network, convolution_of, filled_network, with_encoded


def in_float(network: Network) -> Network:
    """`network` with the values of its weights in float32. Layers that round more than their weights stay as they are.

    Tensors that are in float are shared.
    """
    layers: dict[int, tuple[Encoding, dict[str, Tensor]]] = {}
    for i, encoding in network.encodings.items():
        if encoding.rounds_input:
            continue
        tensors = convolution_of(network, i).state_dict()
        kept = {"bias": tensors["bias"].float()} if "bias" in tensors else {}
        encoding_in_float = Float32() if encoding.keeps_norm else FoldedFloat32()
        layers[i] = (encoding_in_float, {"weight": stored_weight(network, i), **kept})
    return with_encoded(network, layers)


def without_encodings(network: Network) -> Network:
    """`network`, of which only weights are encoded, as a float network like any other.

    Its layer list says of layers that BatchNorm is folded into that they have none.
    """
    float_network = in_float(network)
    architecture, encodings = network.architecture, float_network.encodings
    layers = tuple(
        replace(layer, batch_normalize=False, bias=True)
        if isinstance(layer, Convolution) and isinstance(encodings[i], FoldedFloat32)
        else layer
        for i, layer in enumerate(architecture.layers)
    )
    return filled_network(replace(architecture, layers=layers), {}, float_network.state_dict())
