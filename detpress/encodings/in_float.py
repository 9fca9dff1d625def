"""The float network that computes what encoded weights stand for."""

from detpress.detector.float32 import Float32, FoldedFloat32
from detpress.detector.folding import stored_weight
from detpress.detector.network import Network, filled_network


def in_float(network: Network) -> Network:
    """`network` with the values of its weights in float32. Layers that round more than their weights stay as they are.

    Tensors that are in float are shared.
    """
    float_layers = {i: encoding for i, encoding in network.encodings.items() if not encoding.rounds_input}
    tensors = dict(network.state_dict())
    for i in float_layers:
        name = f"layers.{i}.convolution"
        convolution = network.get_submodule(name).state_dict()
        for part in convolution:
            del tensors[f"{name}.{part}"]
        tensors[f"{name}.weight"] = stored_weight(network, i)
        if "bias" in convolution:
            tensors[f"{name}.bias"] = convolution["bias"].float()
    encodings = network.encodings | {
        i: Float32() if encoding.keeps_norm else FoldedFloat32() for i, encoding in float_layers.items()
    }
    return filled_network(network.architecture, encodings, tensors)
