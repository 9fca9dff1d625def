"""The network that a layer list describes. `forward` gives raw maps and can be traced by torch.fx."""

from collections.abc import Callable

from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Yolo


class Network(nn.Module):
    """Any detector of the YOLOv3 family.

    Layer i is `layers.{i}`, so that the numbers are Darknet's; a convolution's parts are called `convolution`, `norm`
    and `activation`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = nn.ModuleList(
            layer.module(taken) for layer, taken in zip(architecture.layers, architecture.taken_maps, strict=True)
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
