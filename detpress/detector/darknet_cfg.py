"""Darknet's network descriptions (`.cfg`): read into an `Architecture`, and written from one.

    [convolutional]        a section is a layer, but for [net], the first
    batch_normalize=1      an option of it
    # a comment            so is a line that starts with ;

The options, their defaults and the numbering of layers (a negative one counts back from the layer that names it) are
those of `src/parser.c` of https://github.com/pjreddie/darknet. A file does not hold class names; whether images are
letterboxed it says with `letter_box`, an option of https://github.com/AlexeyAB/darknet, which the older program
passes over. Without it they are, as there.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from detpress.detector.architecture import (
    LARGEST_COUNT,
    MOST_LAYERS,
    Activation,
    Architecture,
    Convolution,
    FeatureMap,
    Layer,
    MaxPool,
    Resize,
    Route,
    Shortcut,
    Upsample,
    Yolo,
    output_map,
)
from detpress.errors import InputError, nearest
from detpress.files.plain import plain

LARGEST_FILE = 2**20  # bytes; yolov3.cfg has 8,791

_OTHER_NAMES = {"network": "net", "conv": "convolutional", "max": "maxpool"}
_OPTIONS = {
    "net": "width height channels letter_box",
    "convolutional": "filters size stride pad padding groups batch_normalize activation",
    "shortcut": "from activation",
    "route": "layers",
    "upsample": "stride",
    "maxpool": "size stride padding",
    "yolo": "mask anchors classes num",
}
# What only matters when Darknet trains: read over.
_TRAINING = {
    "net": "batch subdivisions time_steps notruth inputs momentum decay learning_rate learning_rate_min burn_in power "
    "max_batches policy step steps scale scales gamma seq_scales sgdr_cycle sgdr_mult adam B1 B2 eps random angle "
    "aspect saturation exposure hue flip blur mixup cutmix mosaic mosaic_bound gaussian_noise center clip "
    "min_crop max_crop min_ratio max_ratio ema_alpha label_smooth_eps resize_step max_chart_loss track "
    "augment_speed optimized_memory workspace_size_limit_MB",
    "yolo": "jitter ignore_thresh truth_thresh random max resize iou_thresh iou_loss iou_normalizer obj_normalizer "
    "cls_normalizer max_delta label_smooth_eps nms_kind beta_nms",
}
_ACTIVATIONS: dict[str, Activation] = {name: name for name in get_args(Activation)}
_TRAINING_OF_ANY_LAYER = "stopbackward onlyforward learning_rate clip truth smooth"


@dataclass
class _Section:
    """`[kind]` at a line of the file. options: name -> its line and text."""

    path: Path
    line: int
    kind: str
    options: dict[str, tuple[int, str]] = field(default_factory=dict)

    def error(self, message: str, option: str = "") -> InputError:
        line = self.options[option][0] if option in self.options else self.line
        return InputError(f"{self.path}:{line}: [{self.kind}] {message}")

    def word(self, option: str, default: str) -> str:
        return self.options[option][1] if option in self.options else default

    def whole_numbers(self, option: str, low: int, high: int) -> list[int]:
        """The option's list of numbers; empty where it is absent."""
        if option not in self.options:
            return []
        numbers = []
        for text in self.options[option][1].split(","):
            number = int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else None
            if number is None or not low <= number <= high:
                raise self.error(f"{option}: expected a whole number from {low} to {high}, got '{text[:40]}'", option)
            numbers.append(number)
        return numbers

    def whole_number(self, option: str, default: int, low: int, high: int) -> int:
        numbers = self.whole_numbers(option, low, high) or [default]
        if len(numbers) > 1:
            raise self.error(f"{option}: expected one number, got {len(numbers)}", option)
        return numbers[0]

    def sources(self, option: str, index: int) -> tuple[int, ...]:
        """Layers before `index`; a negative number counts back from it."""
        if option not in self.options:
            raise self.error(f"expected the option {option}")
        if not index:
            raise self.error("is the first layer: expected one before it")
        numbers = self.whole_numbers(option, -index, index - 1)
        return tuple(number if number >= 0 else index + number for number in numbers)


def read_cfg(path: Path, classes: Sequence[str] | None = None, name: str | None = None) -> Architecture:
    """The network that `path` describes.

    classes: the names of its classes, `class0`, `class1`, ... by default. name: the file's, by default.
    Raises InputError, with the line, for anything that is not a network that detpress can compute.
    """
    net, *sections = _read_sections(path)
    image_size = _read_net(net)
    letter_box = net.whole_number("letter_box", 1, 0, 1)
    layers: list[Layer] = []
    maps: list[FeatureMap] = []
    before = FeatureMap(3, image_size)
    class_count = None
    for i, section in enumerate(sections):
        if i == MOST_LAYERS:
            raise section.error(f"is one layer too many: expected at most {MOST_LAYERS:,}")
        layer = _read_layer(section, i)
        try:
            before = output_map(layer, before, maps)
        except InputError as error:
            raise section.error(str(error), "layers") from error
        maps.append(before)
        if isinstance(layer, Yolo):
            count = section.whole_number("classes", 20, 1, LARGEST_COUNT)
            if class_count not in (None, count):
                raise section.error(f"classes: {count}, but {class_count} in the yolo layer before", "classes")
            class_count = count
            _check_head(section, layers[-1] if layers else None, len(layer.anchors), count)
        layers.append(layer)
    if class_count is None:
        raise InputError(f"{path}: expected a [yolo] section: only detectors of the YOLOv3 family are read")
    names = [f"class{i}" for i in range(class_count)] if classes is None else list(classes)
    if len(names) != class_count:
        raise InputError(f"{path}: has {class_count} classes, but {len(names)} names are given")
    resize: Resize = "letterbox" if letter_box else "stretch"
    return Architecture(name or path.stem, tuple(layers), tuple(names), image_size, resize)


def write_cfg(architecture: Architecture) -> str:
    """The text of a cfg file from which `read_cfg` gives the same architecture, its names aside.

    Sections have the options that Darknet would else guess, in a fixed order; layers are named by their numbers from
    the start. Every yolo layer lists the anchors of all, from the finest scale on, and masks its own.
    """
    size = architecture.image_size
    letter_box = int(architecture.resize == "letterbox")
    text = [_section("net", width=size, height=size, channels=3, letter_box=letter_box)]
    anchors: list[tuple[float, float]] = []
    first_anchor = {}
    for i, layer in reversed(list(enumerate(architecture.layers))):
        if isinstance(layer, Yolo):
            first_anchor[i] = len(anchors)
            anchors += layer.anchors
    for i, layer in enumerate(architecture.layers):
        match layer:
            case Convolution():
                options: dict[str, object] = {"batch_normalize": 1} if layer.batch_normalize else {}
                options |= {"filters": layer.filters, "size": layer.size, "stride": layer.stride, "pad": 1}
                options |= {"groups": layer.groups} if layer.groups > 1 else {}
                text.append(_section("convolutional", **options, activation=layer.activation))
            case Shortcut(source=source):
                text.append(_section("shortcut", **{"from": source}, activation="linear"))
            case Route(sources=sources):
                text.append(_section("route", layers=",".join(map(str, sources))))
            case Upsample(stride=stride):
                text.append(_section("upsample", stride=stride))
            case MaxPool(size=pool, stride=stride):
                text.append(_section("maxpool", size=pool, stride=stride))
            case Yolo():
                mask = range(first_anchor[i], first_anchor[i] + len(layer.anchors))
                text.append(
                    _section(
                        "yolo",
                        mask=",".join(map(str, mask)),
                        anchors=",  ".join(f"{_number(w)},{_number(h)}" for w, h in anchors),
                        classes=len(architecture.classes),
                        num=len(anchors),
                    )
                )
    return "\n".join(text)


def _section(kind: str, **options: object) -> str:
    return f"[{kind}]\n" + "".join(f"{option}={value}\n" for option, value in options.items())


def _number(value: float) -> str:
    """The shortest text that reads back to `value`; Darknet's own files write whole anchors without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _read_sections(path: Path) -> list[_Section]:
    try:
        with plain(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a cfg file: {error}") from error
    if len(content) > LARGEST_FILE:
        raise InputError(f"{path}: has more than {LARGEST_FILE} bytes; expected a network description")
    sections: list[_Section] = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = re.sub(r"\s", "", line.partition("#")[0])  # Darknet takes out every space, too
        if not stripped or stripped.startswith(";"):
            continue
        if stripped.startswith("["):
            sections.append(_open_section(path, number, stripped))
        elif not sections:
            raise InputError(f"{path}:{number}: expected [net] before the first option")
        else:
            _add_option(sections[-1], number, stripped)
    if not sections or sections[0].kind != "net":
        raise InputError(f"{path}:{sections[0].line if sections else 1}: expected [net] as the first section")
    return sections


def _open_section(path: Path, line: int, text: str) -> _Section:
    kind = text.removeprefix("[").removesuffix("]")
    kind = _OTHER_NAMES.get(kind, kind)
    if kind not in _OPTIONS:
        raise InputError(f"{path}:{line}: unknown section {text[:40]}; {nearest(kind, _OPTIONS)}")
    return _Section(path, line, kind)


def _add_option(section: _Section, line: int, text: str) -> None:
    option, _, value = text.partition("=")
    training = f"{_TRAINING.get(section.kind, '')} {_TRAINING_OF_ANY_LAYER}".split()
    first = section.options.get(option)
    if first and option in training:
        return  # Darknet takes the first
    section.options[option] = (line, value)
    known = [*_OPTIONS[section.kind].split(), *training]
    if not value:
        raise section.error(f"expected option=value, got '{text[:40]}'", option)
    if option not in known:
        raise section.error(f"unknown option '{option[:40]}'; {nearest(option, known)}", option)
    if first:
        raise section.error(f"{option}: given twice, first in line {first[0]}", option)


def _read_net(net: _Section) -> int:
    """The side of the square input."""
    width, height = (net.whole_number(side, 0, 32, LARGEST_COUNT) for side in ("width", "height"))
    if width != height or width % 32 or not width:
        raise net.error(f"width={width}, height={height}: expected the same positive multiple of 32 for both", "height")
    channels = net.whole_number("channels", 3, 1, LARGEST_COUNT)
    if channels != 3:
        raise net.error(f"channels: {channels}; only images of 3 channels are read", "channels")
    return width


def _read_layer(section: _Section, index: int) -> Layer:
    match section.kind:
        case "convolutional":
            return _read_convolution(section)
        case "shortcut":
            sources = section.sources("from", index)
            if len(sources) > 1 or section.word("activation", "linear") != "linear":
                raise section.error("expected one layer in from, and activation=linear")
            return Shortcut(sources[0])
        case "route":
            return Route(section.sources("layers", index))
        case "upsample":
            return Upsample(section.whole_number("stride", 2, 1, 32))
        case "maxpool":
            stride = section.whole_number("stride", 1, 1, 32)
            size = section.whole_number("size", stride, 1, 63)
            if section.whole_number("padding", size - 1, 0, 63) != size - 1:
                raise section.error(f"padding: only {size - 1}, Darknet's own for size {size}, is computed", "padding")
            return MaxPool(size, stride)
        case "yolo":
            return _read_yolo(section)
        case _:
            raise section.error("may come once only, as the first section")


def _read_convolution(section: _Section) -> Convolution:
    filters = section.whole_number("filters", 1, 1, LARGEST_COUNT)
    size = section.whole_number("size", 1, 1, 63)
    stride = section.whole_number("stride", 1, 1, 32)
    padding = section.whole_number("padding", 0, 0, 63)
    if section.whole_number("pad", 0, 0, 1):
        padding = size // 2
    if padding != size // 2:
        raise section.error(f"padding: {padding}; only pad=1, half the size, is computed", "padding")
    batch_normalize = section.whole_number("batch_normalize", 0, 0, 1)
    activation = section.word("activation", "logistic")  # Darknet's default
    if activation not in _ACTIVATIONS:
        raise section.error(f"activation: {activation[:40]}; {', '.join(_ACTIVATIONS)} are supported", "activation")
    groups = section.whole_number("groups", 1, 1, LARGEST_COUNT)
    return Convolution(filters, size, stride, bool(batch_normalize), _ACTIVATIONS[activation], groups)


def _read_yolo(section: _Section) -> Yolo:
    texts = section.word("anchors", "").split(",")
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) % 2 or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise section.error("anchors: expected pairs of positive numbers, width and height", "anchors")
    anchors = list(zip(numbers[::2], numbers[1::2], strict=True))
    count = section.whole_number("num", len(anchors), 1, LARGEST_COUNT)
    if count != len(anchors):
        raise section.error(f"num: {count}, but anchors has {len(anchors)} pairs", "num")
    mask = section.whole_numbers("mask", 0, len(anchors) - 1) or range(len(anchors))
    return Yolo(tuple(anchors[i] for i in mask))


def _check_head(section: _Section, before: Layer | None, anchors: int, classes: int) -> None:
    filters = anchors * (5 + classes)
    if not isinstance(before, Convolution) or before.filters != filters:
        raise section.error(
            f"with {classes} classes and {anchors} anchors expects a [convolutional] of {filters} filters before it"
        )
