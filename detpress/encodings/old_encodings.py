"""What model.json said of encodings before each layer had an entry of its own: one key for the whole network.

    quantization     {"inputs": {"1": [0.02, 30]}, "between": {"layers.1": [0.04, 30]}}
    dynamic          {"layers": [1, 4]}
    packing          {"bits": 4, "group_size": 32, "symmetric": false, "layers": [1, 4]}
    simulation       {"layers": {"1": {"weight_bits": 4, "input": {"lowest": 0, ...}}}}
    half_precision   {"dtype": "bf16", "layers": [1, 4]}

The layers that are not named are in float; BatchNorm is folded into them, except beside layers in 16 bits.
"""

from collections.abc import Callable, Mapping
from typing import Any

from detpress.detector.architecture import Architecture
from detpress.detector.encoding import Encoding
from detpress.detector.input_scale import InputScale
from detpress.detector.network import folded_but
from detpress.encodings.dynamic_int8 import DynamicInt8
from detpress.encodings.half import Half
from detpress.encodings.int8 import Int8
from detpress.encodings.packed import Packed
from detpress.encodings.simulated import Simulated
from detpress.errors import InputError
from detpress.files.plain_json import check_keys


def old_encodings(
    architecture: Architecture, description: Mapping[str, Any]
) -> tuple[dict[int, Encoding], dict[str, InputScale]]:
    """Of a bundle's description: the encodings by layer number, and the scales between layers.

    Raises InputError for what is none of the above.
    """
    for key, read in READERS.items():
        data = description.get(key)
        if data is None:
            continue
        try:
            encodings = read(data)
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
            raise InputError(f"{key}: not the description of an encoding") from error
        between = scales_from_dict(key, data["between"]) if key == "quantization" else {}
        return encodings if key == "half_precision" else folded_but(architecture, encodings), between
    return {}, {}


def scales_from_dict(where: str, data: Any) -> dict[str, InputScale]:
    """By the name of the tensor. Raises InputError, beginning with `where`."""
    try:
        return {name: InputScale(float(scale), int(zero_point)) for name, (scale, zero_point) in data.items()}
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: expected scales and zero points by the name of a tensor") from error


def _quantization(data: dict[str, Any]) -> dict[int, Encoding]:
    check_keys("quantization", data, ("inputs", "between"))
    return {int(i): Int8(scale) for i, scale in scales_from_dict("quantization", data["inputs"]).items()}


def _simulation(data: dict[str, Any]) -> dict[int, Encoding]:
    check_keys("simulation", data, ("layers",))
    return {int(i): Simulated.from_dict("simulation", layer) for i, layer in data["layers"].items()}


def _dynamic(data: dict[str, Any]) -> dict[int, Encoding]:
    check_keys("dynamic", data, ("layers",))
    return {int(i): DynamicInt8() for i in data["layers"]}


def _half_precision(data: dict[str, Any]) -> dict[int, Encoding]:
    check_keys("half_precision", data, ("dtype", "layers"))
    return {int(i): Half(data["dtype"]) for i in data["layers"]}


def _packing(data: dict[str, Any]) -> dict[int, Encoding]:
    check_keys("packing", data, ("bits", "group_size", "symmetric", "layers"))
    how = Packed(data["bits"], int(data["group_size"]), bool(data["symmetric"]))
    return {int(i): how for i in data["layers"]}


READERS: dict[str, Callable[[Any], dict[int, Encoding]]] = {
    "quantization": _quantization,
    "simulation": _simulation,
    "dynamic": _dynamic,
    "half_precision": _half_precision,
    "packing": _packing,
}
