"""What a network is: a list of layers, numbered as Darknet numbers them.

A detector is described by data, not by a class: the layer list of `yolov3` is the same list that Darknet's
`yolov3.cfg` spells out, in the same order and with the same numbers. Whatever a compressor does to a network
(fewer filters, one convolution replaced by two, a searched block), the result is again such a list, so one network
class builds it, one bundle stores it and one cfg writer exports it.

    index  layer                                     layer 4 is `Shortcut(source=1)`:
    0      Convolution(32, size=3)                   it adds what layer 1 gave
    1      Convolution(64, size=3, stride=2)         to what layer 3 gives
    2      Convolution(32, size=1)
    3      Convolution(64, size=3)
    4      Shortcut(source=1)

What a layer is, each kind says itself (`detpress.detector.layer`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from detpress.detector.design import find_design
from detpress.detector.kinds import (
    Activation,
    Anchors,
    Convolution,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)
from detpress.detector.layer import LARGEST_COUNT, FeatureMap, Layer
from detpress.detector.layer_kinds import layer_as_dict, layer_from_dict
from detpress.errors import InputError, cut_short, shortened
from detpress.files.plain_json import check_keys

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Activation",
    "Anchors",
    "Architecture",
    "Convolution",
    "FeatureMap",
    "Layer",
    "MaxPool",
    "Resize",
    "Route",
    "Shortcut",
    "Upsample",
    "Yolo",
    "build_architecture",
]

LARGEST_MAP = 2**30  # numbers that a layer gives for one image, 4 GiB
USUAL_STRIDE = 32  # of the coarsest head
LARGE_INPUT = 1024  # pixels, a multiple of any network's stride
MOST_LAYERS = 1000  # yolov3 has 107; the time to load a bundle grows with the square

Resize = Literal["letterbox", "stretch"]
RESIZES: tuple[Resize, ...] = get_args(Resize)


@dataclass(frozen=True)
class Architecture:
    """Everything about a detector except its weights.

    name: what it was derived from, such as `yolov3`; says nothing about its widths.
    image_size: side of the square input in pixels, or its height and width; a multiple of 32, or else of the network's
        stride.
    resize: how an image is brought to that size: `letterbox` keeps its proportions and pads with grey.
    """

    name: str
    layers: tuple[Layer, ...]
    classes: tuple[str, ...]
    image_size: int | tuple[int, int]
    resize: Resize = "letterbox"

    def __post_init__(self) -> None:
        """Raises InputError where the parts do not make a network."""
        if isinstance(self.image_size, tuple) and len(set(self.image_size)) == 1:
            object.__setattr__(self, "image_size", self.image_size[0])
        height, width = self.input_size
        usual = height % USUAL_STRIDE == width % USUAL_STRIDE == 0
        if min(height, width) <= 0:
            raise InputError(f"image size {size_text(self.image_size)}: expected a positive multiple of {USUAL_STRIDE}")
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Yolo):
                _check_head(i, self.layers[i - 1] if i else None, len(layer.anchors) * (5 + len(self.classes)))
            if not layer.inputs(i) or not all(0 <= source < i for source in layer.refers_to):
                raise InputError(f"layer {i}: takes layers {list(layer.refers_to)}; expected layers before it")
        stride = USUAL_STRIDE if usual else _largest_stride(self.layers)
        if height % stride or width % stride:
            raise InputError(f"image size {size_text(self.image_size)}: expected a positive multiple of {stride}")
        maps = self.output_maps
        if any(maps[i].width * height != maps[i].height * width for i in self.heads):
            raise InputError("the maps of the yolo layers have another shape than the images")
        if not self.yolo_layers:
            raise InputError("the network has no yolo layer")
        if len(set(names := self.names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise InputError(f"two layers are called {shortened(twice)}")

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def input_map(self) -> FeatureMap:
        """The images, as layers take them."""
        return FeatureMap(3, *self.input_size)

    def stride(self, raw: "Tensor") -> float:
        """Pixels of the input from one place of a raw map (N, C, H, W) to the next."""
        return self.input_size[1] / raw.shape[-1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the heads' maps, in their order: whole pixels."""
        maps = self.output_maps
        return tuple(self.input_size[1] // maps[head].width for head in self.heads)

    @property
    def map_names(self) -> tuple[str, ...]:
        """What the raw maps are called in files for runtimes: by their strides, numbered where several have one."""
        strides, names = self.strides, []
        for i, stride in enumerate(strides):
            again = strides[:i].count(stride)
            names.append(f"map_{stride}_{again}" if again else f"map_{stride}")
        return tuple(names)

    @property
    def coarse_to_fine(self) -> tuple[int, ...]:
        """The place of each head where they are ordered from the largest stride to the smallest."""
        strides = self.strides
        order = sorted(range(len(strides)), key=lambda place: -strides[place])
        return tuple(order.index(place) for place in range(len(strides)))

    @property
    def names(self) -> tuple[str, ...]:
        """What people call the layers: `layers.{i}`, or as it was before others came or went."""
        return tuple(layer.name or f"layers.{i}" for i, layer in enumerate(self.layers))

    @property
    def heads(self) -> tuple[int, ...]:
        """Indices of the convolutions whose outputs are raw detection maps."""
        return tuple(i - 1 for i, layer in enumerate(self.layers) if isinstance(layer, Yolo))

    @property
    def yolo_layers(self) -> tuple[Yolo, ...]:
        return tuple(layer for layer in self.layers if isinstance(layer, Yolo))

    @property
    def output_maps(self) -> tuple[FeatureMap, ...]:
        """What each layer gives. Raises InputError where a layer cannot take what it is given."""
        maps: list[FeatureMap] = []
        for i, layer in enumerate(self.layers):
            try:
                maps.append(map_of(layer, self._taken(i, maps)))
            except InputError as error:
                raise InputError(f"layer {i}: {error}") from error
        return tuple(maps)

    @property
    def taken_maps(self) -> tuple[tuple[FeatureMap, ...], ...]:
        """The maps that each layer takes, in the order of its inputs."""
        given = self.output_maps
        return tuple(self._taken(i, given) for i in range(len(self.layers)))

    def _taken(self, index: int, given: Sequence[FeatureMap]) -> tuple[FeatureMap, ...]:
        images = self.input_map
        return tuple(given[k] if k >= 0 else images for k in self.layers[index].inputs(index))

    @property
    def output_channels(self) -> tuple[int, ...]:
        """Channels that each layer gives, the input having 3."""
        return tuple(given.channels for given in self.output_maps)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse. Raises InputError for a kind of layer without a name."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "image_size": self.image_size if isinstance(self.image_size, int) else list(self.image_size),
            "resize": self.resize,
            "layers": [layer_as_dict(layer) for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Architecture":
        """Raises InputError where `data` does not describe a network."""
        check_keys("architecture", data, [field.name for field in fields(cls)])
        name, classes, image_size, layers = data["name"], data["classes"], data["image_size"], data["layers"]
        if not isinstance(name, str):
            raise InputError(f"name: expected a text, got {shortened(name)}")
        if not isinstance(classes, list) or not classes or not all(isinstance(c, str) and c for c in classes):
            raise InputError(f"classes: expected at least one name, each a text, got {shortened(classes)}")
        if len(set(classes)) < len(classes):
            twice = next(name for i, name in enumerate(classes) if name in classes[:i])
            raise InputError(f"classes: {shortened(twice)} is named twice")
        sides = image_size if isinstance(image_size, list) and len(image_size) == 2 else [image_size]
        if not all(type(side) is int and 1 <= side <= LARGEST_COUNT for side in sides):
            raise InputError(
                f"image_size: expected a whole number from 1 to {LARGEST_COUNT}, or height and width, "
                f"got {shortened(image_size)}"
            )
        size = image_size if isinstance(image_size, int) else (image_size[0], image_size[1])
        if data["resize"] not in get_args(Resize):
            raise InputError(f"resize: expected one of {', '.join(get_args(Resize))}, got {shortened(data['resize'])}")
        if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
            raise InputError(f"layers: expected a list of at most {MOST_LAYERS}")
        described = tuple(layer_from_dict(f"layer {i}", layer) for i, layer in enumerate(layers))
        return cls(name, described, tuple(classes), size, data["resize"])


def map_of(layer: Layer, taken: Sequence[FeatureMap]) -> FeatureMap:
    """What `layer` gives. Raises InputError as it does, and where it would give more than any memory holds."""
    try:
        given = layer.given(taken)
    except InputError:
        raise
    except Exception as error:  # another package's kind may raise anything
        raise InputError(f"{type(layer).__name__} failed: {type(error).__name__}: {cut_short(str(error))}") from error
    if not isinstance(given, FeatureMap):
        raise InputError(f"{type(layer).__name__} gives {shortened(given)} as its map; expected a FeatureMap")
    if max(given.channels, given.height, given.width) > LARGEST_COUNT:
        raise InputError(f"gives {given} pixels; expected at most {LARGEST_COUNT} of either")
    if min(given.height, given.width) < 1:
        raise InputError(f"gives {given} pixels; expected at least one")
    if given.channels * given.height * given.width > LARGEST_MAP:
        raise InputError(f"gives {given} pixels; expected at most {LARGEST_MAP:,} numbers")
    return given


def size_text(image_size: int | tuple[int, int]) -> str:
    """For people: `416`, or the width, then the height, such as `320 x 256`."""
    return str(image_size) if isinstance(image_size, int) else f"{image_size[1]} x {image_size[0]}"


def _largest_stride(layers: Sequence[Layer]) -> int:
    """Of the heads, by the maps that a large input gives; the usual one without a head."""
    maps: list[FeatureMap] = []
    for i, layer in enumerate(layers):
        taken = [maps[k] if k >= 0 else FeatureMap(3, LARGE_INPUT) for k in layer.inputs(i)]
        maps.append(map_of(layer, taken))
    heads = [i for i, layer in enumerate(layers) if isinstance(layer, Yolo)]
    return max((LARGE_INPUT // maps[head].width for head in heads), default=USUAL_STRIDE)


def _check_head(index: int, before: Layer | None, channels: int) -> None:
    if not isinstance(before, Convolution) or before.filters != channels:
        raise InputError(f"layer {index}: a yolo layer of these anchors and classes follows {channels} filters")


def build_architecture(
    name: str,
    classes: Sequence[str],
    image_size: int,
    width: float = 1.0,
    anchors: Anchors | None = None,
    resize: Resize = "letterbox",
) -> Architecture:
    """The layer list called `name` with every layer's filters (heads excepted) multiplied by `width`.

    anchors: pixels at `image_size`, from the smallest to the largest; the published ones, scaled to it, by default.
    Raises InputError for an unknown name or a size that is not a positive multiple of 32.
    """
    design = find_design(name)
    if anchors is None:
        scale = design.anchors_at
        anchors = [(w * image_size / scale, h * image_size / scale) for w, h in design.anchors]
    if len(anchors) != len(design.anchors):
        raise InputError(f"{name} takes {len(design.anchors)} anchors, not {len(anchors)}")
    try:
        layers = tuple(design.layers(len(classes), anchors, image_size, width))
    except InputError:
        raise
    except Exception as error:  # another package's architecture may raise anything
        said = f"{type(error).__name__}: {cut_short(str(error))}"
        raise InputError(f"the architecture '{name}' gives no layer list: {said}") from error
    return Architecture(name, layers, tuple(classes), image_size, resize)
