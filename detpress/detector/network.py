"""The network that a layer list describes. `forward` gives raw maps and can be traced by torch.fx."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detpress.detector.architecture import Architecture
from detpress.detector.encoding import EncodedConvolution, Encoding
from detpress.detector.float32 import Float32, FoldedFloat32
from detpress.detector.input_scale import InputScale
from detpress.detector.kinds import Convolution, Yolo
from detpress.errors import InputError

NOTHING: Mapping[Any, Any] = MappingProxyType({})
FILLING = (Tensor.fill_, Tensor.zero_)  # and all of torch.nn.init


class _Unfilled(TorchFunctionMode):
    """Fills no tensor that has no memory, which PyTorch would do step by step for nothing."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in FILLING or getattr(function, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return function(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks made meanwhile have tensors without memory, which are to be assigned others."""
    with torch.device("meta"), _Unfilled():
        yield


class Network(nn.Module):
    """Any detector of the YOLOv3 family.

    Layer i is `layers.{i}`, so that the numbers are Darknet's; a convolution's parts are called `convolution`, `norm`
    and `activation`.
    """

    def __init__(
        self,
        architecture: Architecture,
        encodings: Mapping[int, Encoding] = NOTHING,
        between: Mapping[str, InputScale] = NOTHING,
    ) -> None:
        """encodings: of convolutions, by layer number; the others are float32. Encoded tensors are to be filled.

        between: of an int8 network, the scales of what other operators take, by tensor: `layers.3.convolution` is what
            that convolution gives to its activation, `layers.4` what layer 4 gives. Only the graphs for runtimes round
            these (see `detpress.encodings.int8_onnx`).
        Raises InputError where an encoded layer is no convolution, and for int8 as `check_in_integers` does.
        """
        super().__init__()
        self.architecture = architecture
        self.encodings = _of_every_convolution(architecture, encodings)
        if any(encoding.precision == "int8" for encoding in encodings.values()):
            check_in_integers(architecture)
        self.between = dict(between)
        self.layers = nn.ModuleList(
            encoded_block(layer, taken[0].channels, encodings[i])
            if isinstance(layer, Convolution) and i in encodings
            else layer.module(taken)
            for i, (layer, taken) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1], H and W multiples of 32.

        Returns one raw map a scale, coarse to fine: float32 (N, anchors * (5 + classes), H / stride, W / stride);
        the channels of an anchor are x, y, width, height, objectness and one logit a class.
        """
        return run_layers(self.architecture, self.layers, images)


def check_in_integers(architecture: Architecture) -> None:
    """Raises InputError for the first layer with weights that is no convolution: int8 networks have none, as the graphs
    that runtimes execute in integers have none.
    """
    for i, (layer, taken) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True)):
        if not isinstance(layer, Convolution) and layer.parameters(taken):
            raise InputError(
                f"layers.{i}: {type(layer).__name__} has weights of its own, which no network in int8 has; expected an "
                "architecture without it, or a step that keeps it in float, such as inc.mixed_precision"
            )


def convolution_name(layer: int) -> str:
    """Of the convolution's module in the network."""
    return f"layers.{layer}.convolution"


def weight_name(layer: int) -> str:
    """Of the convolution's weights in the network's state."""
    return f"{convolution_name(layer)}.weight"


def convolution_of(network: nn.Module, layer: int) -> EncodedConvolution | nn.Conv2d:
    """The module that computes convolution `layer`, without BatchNorm and activation."""
    found = network.get_submodule(convolution_name(layer))
    assert isinstance(found, EncodedConvolution | nn.Conv2d)
    return found


def _of_every_convolution(architecture: Architecture, given: Mapping[int, Encoding]) -> dict[int, Encoding]:
    found: dict[int, Encoding] = {
        i: given.get(i, Float32()) for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)
    }
    for i, encoding in given.items():
        if i not in found:
            raise InputError(f"layers.{i}: encoded as {type(encoding).__name__}, but not a convolution of the network")
    return found


def encoded_block(layer: Convolution, incoming: int, encoding: Encoding) -> nn.Sequential:
    """What computes the layer, its tensors to be filled."""
    with without_memory():
        like = layer.float_convolution(incoming)
    return layer.block(encoding.module(like), layer.batch_normalize and encoding.keeps_norm)


def folded_but(architecture: Architecture, encodings: Mapping[int, Encoding]) -> dict[int, Encoding]:
    """`encodings`, and for all other convolutions float32 with BatchNorm folded in."""
    every = dict.fromkeys(_of_every_convolution(architecture, encodings), FoldedFloat32())
    return every | dict(encodings)


def filled_network(
    architecture: Architecture,
    encodings: Mapping[int, Encoding],
    tensors: Mapping[str, Tensor],
    between: Mapping[str, InputScale] = NOTHING,
) -> Network:
    """A network that has `tensors`, which it shares, as its state; in eval mode and not to be trained.

    Raises InputError as `fill` does.
    """
    with without_memory():
        network = Network(architecture, encodings, between)
    fill(network, tensors)
    return network.eval().requires_grad_(False)


def fill(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Gives the network `tensors`, which it then shares, as its state.

    Raises InputError, naming tensor and encoding, where one is missing, too many, or of another shape or type.
    """
    check_tensors(network.state_dict(), tensors, network.encodings)
    network.load_state_dict(tensors, assign=True)


def check_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], encodings: Mapping[int, Encoding]
) -> None:
    """Raises InputError for the first tensor, by its name in the network's state, that is not as expected."""
    for name in sorted(expected.keys() | found.keys()):
        wanted, given = _shape(expected.get(name)), _shape(found.get(name))
        if given != wanted:
            _, number, part, *_ = [*name.split("."), "", ""]
            encoding = encodings.get(int(number)) if number.isdecimal() and part == "convolution" else None
            whose = f" ({type(encoding).__name__})" if encoding else ""
            raise InputError(f"{name}{whose} is {given or 'missing'}, the network takes {wanted or 'no such tensor'}")


def _shape(tensor: Tensor | None) -> str:
    return "" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def with_encoded(network: Network, layers: Mapping[int, tuple[Encoding, Mapping[str, Tensor]]]) -> Network:
    """`network` with some convolutions encoded anew, all others as they are; tensors are shared.

    layers: by layer number, the encoding and the tensors that its module keeps, by their names there.
    Raises InputError as `fill` does.
    """
    state = dict(network.state_dict())
    for i, (encoding, tensors) in layers.items():
        name = convolution_name(i)
        replaced = (f"{name}.", *(() if encoding.keeps_norm else (f"layers.{i}.norm.",)))
        state = {key: tensor for key, tensor in state.items() if not key.startswith(replaced)}
        state |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    encodings = network.encodings | {i: encoding for i, (encoding, _) in layers.items()}
    return filled_network(network.architecture, encodings, state, network.between)


def as_it_is(layer: int, x: Tensor) -> Tensor:
    return x


def run_layers(
    architecture: Architecture,
    layers: nn.ModuleList,
    images: Tensor,
    taken: Callable[[int, Tensor], Tensor] = as_it_is,
) -> tuple[Tensor, ...]:
    """Follows the layer list from the images to the raw maps; `layers[i]` computes what does not pass on.

    taken: given a layer and its output, what layers get of it that are no convolutions, and do not pass on.
    """
    needed = needed_later(architecture)
    kept: dict[int, Tensor] = {}
    maps: list[Tensor] = []
    x = images
    for i, layer in enumerate(architecture.layers):
        inputs = [(k, x if k == i - 1 else kept[k]) for k in layer.inputs(i)]
        if layer.passes_on:
            [(_, x)] = inputs
        elif isinstance(layer, Convolution):
            x = layers[i](*(given for _, given in inputs))
        else:
            x = layers[i](*(taken(k, given) for k, given in inputs))
        if isinstance(layer, Yolo):
            maps.append(x)
        if i in needed:
            kept[i] = x
    return tuple(maps)


def needed_later(architecture: Architecture) -> frozenset[int]:
    """Indices of the layers whose outputs are taken by their number, as a shortcut or a route does."""
    return frozenset(source for layer in architecture.layers for source in layer.refers_to)


def origin(architecture: Architecture, layer: int) -> int:
    """The layer that computed what `layer` gives, -1 for the images: some only pass on."""
    while layer >= 0 and architecture.layers[layer].passes_on:
        [layer] = architecture.layers[layer].inputs(layer)
    return layer
