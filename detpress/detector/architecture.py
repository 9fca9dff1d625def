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

Layer lists of YOLOv3: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv:1804.02767, 2018, and the
files `yolov3.cfg`, `yolov3-tiny.cfg` and `yolov3-spp.cfg` published with it.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from detpress.errors import InputError, nearest, shortened
from detpress.files.plain_json import check_keys

LARGEST_COUNT = 2**16  # filters, classes, pixels of a side: more is a mistake, and would be allocated
LARGEST_MAP = 2**30  # numbers that a layer gives for one image, 4 GiB
MOST_LAYERS = 1000  # yolov3 has 107; the time to load a bundle grows with the square

Activation = Literal["leaky", "relu", "linear"]  # as Darknet names them; leaky: 0.1 times what is negative


@dataclass(frozen=True)
class Convolution:
    """Convolution with `size // 2` zero padding, batch normalisation unless told otherwise, then the activation."""

    filters: int
    size: int
    stride: int = 1
    batch_normalize: bool = True
    activation: Activation = "leaky"
    groups: int = 1


@dataclass(frozen=True)
class Shortcut:
    """Adds the output of layer `source` to the output of the layer before."""

    source: int


@dataclass(frozen=True)
class Route:
    """Passes on the outputs of layers `sources`, concatenated over channels."""

    sources: tuple[int, ...]


@dataclass(frozen=True)
class Upsample:
    """Repeats every pixel `stride` times in both directions."""

    stride: int = 2


@dataclass(frozen=True)
class MaxPool:
    """Maximum over `size` x `size`; at stride 1 the map keeps its size."""

    size: int
    stride: int


@dataclass(frozen=True)
class Yolo:
    """Marks the output of the layer before as a raw detection map.

    anchors: (width, height) of each anchor box in pixels of the network's input.
    """

    anchors: tuple[tuple[float, float], ...]


Layer = Convolution | Shortcut | Route | Upsample | MaxPool | Yolo
Resize = Literal["letterbox", "stretch"]

LAYER_TYPES: dict[str, type[Layer]] = {
    "convolution": Convolution,
    "shortcut": Shortcut,
    "route": Route,
    "upsample": Upsample,
    "maxpool": MaxPool,
    "yolo": Yolo,
}
_TYPE_NAMES = {layer_type: name for name, layer_type in LAYER_TYPES.items()}


@dataclass(frozen=True)
class FeatureMap:
    """What a layer gives for one image. side: pixels."""

    channels: int
    side: int

    def __str__(self) -> str:
        return f"{self.channels} channels of {self.side} x {self.side}"


@dataclass(frozen=True)
class Architecture:
    """Everything about a detector except its weights.

    name: what it was derived from, `yolov3`, `yolov3-tiny` or `yolov3-spp`; says nothing about its widths.
    image_size: side of the square input in pixels, a multiple of 32.
    resize: how an image is brought to that square: `letterbox` keeps its proportions and pads with grey.
    """

    name: str
    layers: tuple[Layer, ...]
    classes: tuple[str, ...]
    image_size: int
    resize: Resize = "letterbox"

    def __post_init__(self) -> None:
        """Raises InputError where the parts do not make a network."""
        if self.image_size <= 0 or self.image_size % 32:
            raise InputError(f"image size {self.image_size}: expected a positive multiple of 32")
        for i, layer in enumerate(self.layers):
            match layer:
                case Shortcut(source=source):
                    sources: tuple[int, ...] = (source,)
                case Route(sources=sources):
                    pass
                case Yolo(anchors=anchors):
                    _check_head(i, self.layers[i - 1] if i else None, len(anchors) * (5 + len(self.classes)))
                    continue
                case _:
                    continue
            if not sources or not all(0 <= source < i for source in sources):
                raise InputError(f"layer {i}: takes layers {list(sources)}; expected layers before it")
        _ = self.output_maps
        if not self.yolo_layers:
            raise InputError("the network has no yolo layer")

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
        before = FeatureMap(3, self.image_size)
        for i, layer in enumerate(self.layers):
            try:
                before = output_map(layer, before, maps)
            except InputError as error:
                raise InputError(f"layer {i}: {error}") from error
            maps.append(before)
        return tuple(maps)

    @property
    def output_channels(self) -> tuple[int, ...]:
        """Channels that each layer gives, the input having 3."""
        return tuple(given.channels for given in self.output_maps)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` is its inverse."""
        layers = [{"type": _TYPE_NAMES[type(layer)], **asdict(layer)} for layer in self.layers]
        return {
            "name": self.name,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "resize": self.resize,
            "layers": layers,
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
        _check_count("image_size", image_size)
        if data["resize"] not in get_args(Resize):
            raise InputError(f"resize: expected one of {', '.join(get_args(Resize))}, got {shortened(data['resize'])}")
        if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
            raise InputError(f"layers: expected a list of at most {MOST_LAYERS}")
        described = tuple(_layer_from_dict(i, layer) for i, layer in enumerate(layers))
        return cls(name, described, tuple(classes), image_size, data["resize"])


def output_map(layer: Layer, before: FeatureMap, maps: Sequence[FeatureMap]) -> FeatureMap:
    """What `layer` makes of `before`, the map that the layer before it gives, and of `maps`, those of all before it.

    Raises InputError for maps that do not go together, and where it would give more than any memory holds.
    """
    match layer:
        case Convolution(filters=filters, groups=groups, size=size, stride=stride):
            if filters % groups or before.channels % groups:
                raise InputError(f"{groups} groups do not divide {before.channels} channels or {filters} filters")
            given = FeatureMap(filters, (before.side + 2 * (size // 2) - size) // stride + 1)
        case Shortcut(source=source):
            if maps[source] != before:
                raise InputError(f"cannot add {maps[source]} of layer {source} to {before}")
            given = before
        case Route(sources=sources):
            sides = {maps[source].side for source in sources}
            if len(sides) > 1:
                raise InputError(f"cannot concatenate maps with sides of {sorted(sides)} pixels")
            given = FeatureMap(sum(maps[source].channels for source in sources), sides.pop())
        case Upsample(stride=stride):
            given = FeatureMap(before.channels, before.side * stride)
        case MaxPool(size=size, stride=stride):
            if size % 2 == 0 and (size, stride) != (2, 1) and (stride == 1 or before.side % stride):
                raise InputError(f"size {size} at stride {stride} on a side of {before.side} is not computed")
            given = FeatureMap(before.channels, (before.side - 1) // stride + 1)
        case Yolo():
            given = before
    if max(given.channels, given.side) > LARGEST_COUNT:
        raise InputError(f"gives {given} pixels; expected at most {LARGEST_COUNT} of either")
    if given.channels * given.side**2 > LARGEST_MAP:
        raise InputError(f"gives {given} pixels; expected at most {LARGEST_MAP:,} numbers")
    return given


def _check_head(index: int, before: Layer | None, channels: int) -> None:
    if not isinstance(before, Convolution) or before.filters != channels:
        raise InputError(f"layer {index}: a yolo layer of these anchors and classes follows {channels} filters")


def _layer_from_dict(index: int, data: Any) -> Layer:
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in LAYER_TYPES:
        raise InputError(f"layer {index}: unknown type {shortened(kind)}; {nearest(str(kind), LAYER_TYPES)}")
    options = [field.name for field in fields(LAYER_TYPES[kind])]
    check_keys(f"layer {index}", data, ["type", *options])
    return LAYER_TYPES[kind](
        **{option: _layer_option(f"layer {index}: {option}", option, data[option]) for option in options}
    )


def _layer_option(where: str, option: str, value: Any) -> Any:
    """The value that a file gives as `option` of a layer. Raises InputError where no layer can have it."""
    match option:
        case "batch_normalize":
            fine, expected = isinstance(value, bool), "true or false"
        case "activation":
            fine, expected = value in get_args(Activation), f"one of {', '.join(get_args(Activation))}"
        case "source":
            fine, expected = type(value) is int, "the number of a layer"
        case "sources":
            fine = isinstance(value, list) and all(type(source) is int for source in value)
            expected = "a list of numbers of layers"
        case "anchors":
            fine = isinstance(value, list) and len(value) > 0 and all(map(_is_anchor, value))
            expected = "pairs of positive numbers"
        case _:
            _check_count(where, value)
            return value
    if not fine:
        raise InputError(f"{where}: expected {expected}, got {shortened(value)}")
    if option == "sources":
        return tuple(value)
    return tuple((float(w), float(h)) for w, h in value) if option == "anchors" else value


def _is_anchor(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(side) in (int, float) and 0 < side <= sys.float_info.max for side in value)


def _check_count(where: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= LARGEST_COUNT:
        raise InputError(f"{where}: expected a whole number from 1 to {LARGEST_COUNT}, got {shortened(value)}")


Anchors = Sequence[tuple[float, float]]

# Published with YOLOv3: k-means on COCO, pixels at an input of 416, from the smallest to the largest.
COCO_ANCHORS: Anchors = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
)  # fmt: skip
COCO_TINY_ANCHORS: Anchors = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))


class LayerList:
    """Collects layers in order, scaling the number of filters; indices are those of the finished network."""

    def __init__(self, width: float) -> None:
        self.layers: list[Layer] = []
        self.width = width

    def add(self, layer: Layer) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def convolution(self, filters: int, size: int, stride: int = 1) -> int:
        return self.add(Convolution(max(1, round(filters * self.width)), size, stride))

    def alternate(self, filters: int, times: int) -> int:
        """`times` convolutions, by turns 1x1 with `filters` and 3x3 with twice as many; the last one's index."""
        for i in range(times):
            self.convolution(filters, 1) if i % 2 == 0 else self.convolution(2 * filters, 3)
        return len(self.layers) - 1

    def darknet53(self) -> tuple[int, int]:
        """The backbone; returns the layers where strides 8 and 16 end."""
        self.convolution(32, 3)
        ends = []
        for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
            self.convolution(filters, 3, stride=2)
            for _ in range(blocks):
                before = len(self.layers) - 1
                self.convolution(filters // 2, 1)
                self.convolution(filters, 3)
                self.add(Shortcut(before))
            ends.append(len(self.layers) - 1)
        return ends[2], ends[3]

    def pyramid(self) -> int:
        """Spatial pyramid pooling: the input beside its maxima over 5, 9 and 13 pixels."""
        before = len(self.layers) - 1
        five = self.add(MaxPool(5, 1))
        self.add(Route((before,)))
        nine = self.add(MaxPool(9, 1))
        self.add(Route((before,)))
        thirteen = self.add(MaxPool(13, 1))
        return self.add(Route((thirteen, nine, five, before)))

    def head(self, anchors: Anchors, classes: int) -> None:
        self.add(
            Convolution(len(anchors) * (5 + classes), 1, batch_normalize=False, activation="linear"),
        )
        self.add(Yolo(tuple(anchors)))

    def join(self, source: int, filters: int, with_layer: int) -> None:
        """Goes up one scale: from `source` through a 1x1 convolution, doubled in size, beside `with_layer`."""
        self.add(Route((source,)))
        self.convolution(filters, 1)
        up = self.add(Upsample())
        self.add(Route((up, with_layer)))


def _yolov3(width: float, classes: int, anchors: Anchors, pyramid: bool = False) -> list[Layer]:
    net = LayerList(width)
    stride_8, stride_16 = net.darknet53()
    if pyramid:
        net.alternate(512, 3)
        net.pyramid()
        branch = net.alternate(512, 4) - 1
    else:
        branch = net.alternate(512, 6) - 1
    net.head(anchors[6:9], classes)
    net.join(branch, 256, stride_16)
    branch = net.alternate(256, 6) - 1
    net.head(anchors[3:6], classes)
    net.join(branch, 128, stride_8)
    net.alternate(128, 6)
    net.head(anchors[0:3], classes)
    return net.layers


def _yolov3_tiny(width: float, classes: int, anchors: Anchors) -> list[Layer]:
    net = LayerList(width)
    convolutions = []
    for filters in (16, 32, 64, 128, 256, 512):
        convolutions.append(net.convolution(filters, 3))
        net.add(MaxPool(2, 1 if filters == 512 else 2))
    stride_16 = convolutions[4]
    net.convolution(1024, 3)
    branch = net.convolution(256, 1)
    net.convolution(512, 3)
    net.head(anchors[3:6], classes)
    net.join(branch, 128, stride_16)
    net.convolution(256, 3)
    net.head(anchors[0:3], classes)
    return net.layers


ARCHITECTURES = ("yolov3", "yolov3-spp", "yolov3-tiny")


def anchor_count(name: str) -> int:
    """How many anchors the architecture `name` takes: three for each of its scales."""
    return 6 if name == "yolov3-tiny" else 9


def build_architecture(
    name: str,
    classes: Sequence[str],
    image_size: int,
    width: float = 1.0,
    anchors: Anchors | None = None,
    resize: Resize = "letterbox",
) -> Architecture:
    """The published layer list `name` with every layer's filters (heads excepted) multiplied by `width`.

    anchors: pixels at `image_size`, from the smallest to the largest; the published ones, scaled to it, by default.
    Raises InputError for an unknown name or a size that is not a positive multiple of 32.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"unknown architecture '{name}'; {nearest(name, ARCHITECTURES)}")
    if anchors is None:
        published = COCO_TINY_ANCHORS if name == "yolov3-tiny" else COCO_ANCHORS
        anchors = [(w * image_size / 416, h * image_size / 416) for w, h in published]
    if len(anchors) != anchor_count(name):
        raise InputError(f"{name} takes {anchor_count(name)} anchors, not {len(anchors)}")
    if name == "yolov3-tiny":
        layers = _yolov3_tiny(width, len(classes), anchors)
    else:
        layers = _yolov3(width, len(classes), anchors, pyramid=name == "yolov3-spp")
    return Architecture(name, tuple(layers), tuple(classes), image_size, resize)
