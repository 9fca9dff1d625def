"""Darknet's network descriptions (`.cfg`): read into an `Architecture`, and written from one.

    [convolutional]        a section is a layer, but for [net], the first
    batch_normalize=1      an option of it
    # a comment            so is a line that starts with ;

The options, their defaults and the numbering of layers (a negative one counts back from the layer that names it) are
those of `src/parser.c` of https://github.com/pjreddie/darknet. A file does not hold class names; whether images are
letterboxed it says with `letter_box`, an option of https://github.com/AlexeyAB/darknet, which the older program
passes over. Without it they are, as there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from detpress.detector.architecture import (
    MOST_LAYERS,
    Architecture,
    FeatureMap,
    Resize,
    map_of,
)
from detpress.detector.darknet_section import Section
from detpress.detector.kinds import Convolution, Yolo
from detpress.detector.layer import LARGEST_COUNT, Layer
from detpress.detector.layer_kinds import kind_name, layer_kinds
from detpress.errors import InputError, nearest
from detpress.files.plain import plain

LARGEST_FILE = 2**20  # bytes; yolov3.cfg has 8,791

_OTHER_NAMES = {"network": "net", "conv": "convolutional", "max": "maxpool"}
_NET = "width height channels letter_box"
# What only matters when Darknet trains: read over.
_NET_TRAINING = (
    "batch subdivisions time_steps notruth inputs momentum decay learning_rate learning_rate_min burn_in power "
    "max_batches policy step steps scale scales gamma seq_scales sgdr_cycle sgdr_mult adam B1 B2 eps random angle "
    "aspect saturation exposure hue flip blur mixup cutmix mosaic mosaic_bound gaussian_noise center clip "
    "min_crop max_crop min_ratio max_ratio ema_alpha label_smooth_eps resize_step max_chart_loss track "
    "augment_speed optimized_memory workspace_size_limit_MB"
)
_TRAINING_OF_ANY_LAYER = "stopbackward onlyforward learning_rate clip truth smooth"


def read_cfg(path: Path, classes: Sequence[str] | None = None, name: str | None = None) -> Architecture:
    """The network that `path` describes.

    classes: the names of its classes, `class0`, `class1`, ... by default. name: the file's, by default.
    Raises InputError, with the line, for anything that is not a network that detpress can compute.
    """
    kinds = _kinds_by_section()
    net, *sections = _read_sections(path, kinds)
    image_size = _read_net(net)
    letter_box = net.whole_number("letter_box", 1, 0, 1)
    layers: list[Layer] = []
    maps: list[FeatureMap] = []
    images = FeatureMap(3, image_size)
    class_count = None
    for i, section in enumerate(sections):
        if i == MOST_LAYERS:
            raise section.error(f"is one layer too many: expected at most {MOST_LAYERS:,}")
        if section.kind == "net":
            raise section.error("may come once only, as the first section")
        layer = kinds[section.kind].from_section(section, i)
        try:
            maps.append(map_of(layer, [maps[k] if k >= 0 else images for k in layer.inputs(i)]))
        except InputError as error:
            raise section.error(str(error), "layers") from error
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
    the start. Raises InputError for a layer that Darknet does not have.
    """
    size = architecture.image_size
    letter_box = int(architecture.resize == "letterbox")
    text = [_section("net", width=size, height=size, channels=3, letter_box=letter_box)]
    for i, layer in enumerate(architecture.layers):
        if layer.section is None:
            raise InputError(f"layers.{i}: Darknet has no {kind_name(type(layer))} layer")
        try:
            options = layer.to_section(i, architecture.layers, len(architecture.classes))
        except InputError as error:
            raise InputError(f"layers.{i}: {error}") from error
        text.append(_section(layer.section, **options))
    return "\n".join(text)


def _section(kind: str, **options: object) -> str:
    return f"[{kind}]\n" + "".join(f"{option}={value}\n" for option, value in options.items())


def _kinds_by_section() -> dict[str, type[Layer]]:
    return {kind.section: kind for kind in layer_kinds().values() if kind.section is not None}


def _read_sections(path: Path, kinds: dict[str, type[Layer]]) -> list[Section]:
    try:
        with plain(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a cfg file: {error}") from error
    if len(content) > LARGEST_FILE:
        raise InputError(f"{path}: has more than {LARGEST_FILE} bytes; expected a network description")
    sections: list[Section] = []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = re.sub(r"\s", "", line.partition("#")[0])  # Darknet takes out every space, too
        if not stripped or stripped.startswith(";"):
            continue
        if stripped.startswith("["):
            sections.append(_open_section(path, number, stripped, kinds))
        elif not sections:
            raise InputError(f"{path}:{number}: expected [net] before the first option")
        else:
            _add_option(sections[-1], number, stripped, kinds)
    if not sections or sections[0].kind != "net":
        raise InputError(f"{path}:{sections[0].line if sections else 1}: expected [net] as the first section")
    return sections


def _open_section(path: Path, line: int, text: str, kinds: dict[str, type[Layer]]) -> Section:
    kind = text.removeprefix("[").removesuffix("]")
    kind = _OTHER_NAMES.get(kind, kind)
    if kind != "net" and kind not in kinds:
        raise InputError(f"{path}:{line}: unknown section {text[:40]}; {nearest(kind, ['net', *kinds])}")
    return Section(path, line, kind)


def _add_option(section: Section, line: int, text: str, kinds: dict[str, type[Layer]]) -> None:
    option, _, value = text.partition("=")
    if section.kind == "net":
        computed, training = _NET.split(), _NET_TRAINING.split()
    else:
        kind = kinds[section.kind]
        computed, training = kind.section_options.split(), kind.training_options.split()
    training += _TRAINING_OF_ANY_LAYER.split()
    first = section.options.get(option)
    if first and option in training:
        return  # Darknet takes the first
    section.options[option] = (line, value)
    known = [*computed, *training]
    if not value:
        raise section.error(f"expected option=value, got '{text[:40]}'", option)
    if option not in known:
        raise section.error(f"unknown option '{option[:40]}'; {nearest(option, known)}", option)
    if first:
        raise section.error(f"{option}: given twice, first in line {first[0]}", option)


def _read_net(net: Section) -> int:
    """The side of the square input."""
    width, height = (net.whole_number(side, 0, 32, LARGEST_COUNT) for side in ("width", "height"))
    if width != height or width % 32 or not width:
        raise net.error(f"width={width}, height={height}: expected the same positive multiple of 32 for both", "height")
    channels = net.whole_number("channels", 3, 1, LARGEST_COUNT)
    if channels != 3:
        raise net.error(f"channels: {channels}; only images of 3 channels are read", "channels")
    return width


def _check_head(section: Section, before: Layer | None, anchors: int, classes: int) -> None:
    filters = anchors * (5 + classes)
    if not isinstance(before, Convolution) or before.filters != filters:
        raise section.error(
            f"with {classes} classes and {anchors} anchors expects a [convolutional] of {filters} filters before it"
        )
