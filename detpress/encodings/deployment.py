"""A simulated network as the int8 network that computes the same."""

from torch import Tensor, nn

from detpress.encodings.calibration import seen_inputs, with_scales_between
from detpress.encodings.quantized import InputScale, Quantization, QuantizedNetwork
from detpress.encodings.simulated import Grid, SimulatedNetwork
from detpress.errors import InputError


def deployed(network: nn.Module, images: Tensor) -> QuantizedNetwork:
    """The int8 network with the codes and scales of a simulated one; its missing scales are calibrated on `images`.

    images: float32 (N, 3, H, W) in [0, 1].
    Raises InputError as `deployable` does.
    """
    network = deployable(network)
    layers = network.simulation.layers
    missing = [i for i, layer in layers.items() if layer.input is None]
    seen = seen_inputs(network, missing, images) if missing else {}
    inputs = {i: _input_scale(layer.input) if layer.input else seen[i] for i, layer in layers.items()}
    found = QuantizedNetwork(network.architecture, Quantization(inputs))
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("weight_zero_point")}
    found.load_state_dict(tensors)
    return with_scales_between(found, images)


def deployable(network: nn.Module) -> SimulatedNetwork:
    """`network`. Raises InputError, naming the layer, where codes or scales are not those of 8-bit integers."""
    if not isinstance(network, SimulatedNetwork):
        raise InputError("ranges that are taken anew in every run have no scales to keep; expected simulated ones")
    layers = network.simulation.layers
    if not layers:
        raise InputError("no convolution is quantized")
    for i, layer in layers.items():
        bits = layer.weight_bits if layer.weight_bits < 8 or layer.input is None else layer.input.bits
        if bits < 8:
            raise InputError(
                f"layers.{i}: simulated at {bits} bits; int8 executes 8, and would save nothing of the rest"
            )
        if network.get_buffer(f"layers.{i}.convolution.weight_zero_point").any():
            raise InputError(f"layers.{i}: its weights have zero points; int8 executes weights symmetric about 0")
    return network


def _input_scale(grid: Grid) -> InputScale:
    """Codes counted from 0 on."""
    return InputScale(grid.scale, round(grid.zero_point) - grid.lowest)
