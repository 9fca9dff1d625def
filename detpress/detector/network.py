"""The network that a layer list describes. `forward` gives raw maps and can be traced by torch.fx."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.detector.architecture import (
    Architecture,
    Convolution,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)


class Network(nn.Module):
    """Any detector of the YOLOv3 family.

    Layer i is `layers.{i}`; its parts are called `convolution`, `norm` and `activation`. Shortcuts, routes and yolo
    layers compute nothing of their own and are identities there, so that the numbers are Darknet's.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        channels = (3, *architecture.output_channels)
        self.layers = nn.ModuleList(
            _convolution_block(channels[i], layer) if isinstance(layer, Convolution) else plain_layer(layer)
            for i, layer in enumerate(architecture.layers)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: float32 (N, 3, H, W) in [0, 1], H and W multiples of 32.

        Returns one raw map a scale, coarse to fine: float32 (N, anchors * (5 + classes), H / stride, W / stride);
        the channels of an anchor are x, y, width, height, objectness and one logit a class.
        """
        return run_layers(self.architecture, self.layers, images)


def as_it_is(layer: int, x: Tensor) -> Tensor:
    return x


def run_layers(
    architecture: Architecture,
    layers: nn.ModuleList,
    images: Tensor,
    taken: Callable[[int, Tensor], Tensor] = as_it_is,
) -> tuple[Tensor, ...]:
    """Follows the layer list from the images to the raw maps; `layers[i]` computes what is not routing.

    taken: given a layer and its output, what additions, concatenations, upsampling and pooling get of it.
    """
    needed = needed_later(architecture)
    kept: dict[int, Tensor] = {}
    maps: list[Tensor] = []
    x = images
    for i, layer in enumerate(architecture.layers):
        match layer:
            case Shortcut(source=source):
                x = taken(i - 1, x) + taken(source, kept[source])
            case Route(sources=(source,)):
                x = kept[source]
            case Route(sources=sources):
                x = torch.cat([taken(s, kept[s]) for s in sources], dim=1)
            case Yolo():
                maps.append(x)
            case Upsample() | MaxPool():
                x = layers[i](taken(i - 1, x))
            case _:
                x = layers[i](x)
        if i in needed:
            kept[i] = x
    return tuple(maps)


def needed_later(architecture: Architecture) -> frozenset[int]:
    """Indices of the layers whose outputs a shortcut or a route takes."""
    needed: set[int] = set()
    for layer in architecture.layers:
        match layer:
            case Shortcut(source=source):
                needed.add(source)
            case Route(sources=sources):
                needed.update(sources)
    return frozenset(needed)


def origin(architecture: Architecture, layer: int) -> int:
    """The layer that computed what `layer` gives, -1 for the images: yolo and a route from one layer only pass on."""
    while layer >= 0:
        match architecture.layers[layer]:
            case Route(sources=(source,)):
                layer = source
            case Yolo():
                layer -= 1
            case _:
                break
    return layer


class SameMaxPool2(nn.Module):
    """Maximum over 2x2 at stride 1; the last row and column are repeated, so that the map keeps its size.

    Darknet pads with minus infinity there; repeating the edge gives the same maximum and stays finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)


def plain_layer(layer: Layer) -> nn.Module:
    """The module of a layer without weights; an identity for those that only route."""
    match layer:
        case MaxPool(size=2, stride=1):
            return SameMaxPool2()
        case MaxPool(size=size, stride=stride):
            return nn.MaxPool2d(size, stride, padding=(size - 1) // 2)
        case Upsample(stride=stride):
            return nn.Upsample(scale_factor=stride, mode="nearest")
        case _:
            return nn.Identity()


def _convolution_block(incoming: int, layer: Convolution) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["convolution"] = nn.Conv2d(
        incoming,
        layer.filters,
        layer.size,
        layer.stride,
        padding=layer.size // 2,
        groups=layer.groups,
        bias=not layer.batch_normalize,
    )
    if layer.batch_normalize:
        parts["norm"] = nn.BatchNorm2d(layer.filters)
    add_activation(parts, layer)
    return nn.Sequential(parts)


def add_activation(parts: OrderedDict[str, nn.Module], layer: Convolution) -> None:
    """Adds the module of the layer's activation; of a linear layer there is none."""
    match layer.activation:
        case "leaky":
            parts["activation"] = nn.LeakyReLU(0.1)
        case "relu":
            parts["activation"] = nn.ReLU()
