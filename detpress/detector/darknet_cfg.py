"""Darknet's network descriptions (`.cfg`): read into an `Architecture`, and written from one.

    [convolutional]        a section is a layer, but for [net], the first
    batch_normalize=1      an option of it
    # a comment            so is a line that starts with ;

The options, their defaults and the numbering of layers (a negative one counts back from the layer that names it) are
those of `src/parser.c` of https://github.com/AlexeyAB/darknet, which reads the files of the older
https://github.com/pjreddie/darknet, too. An option is one of

    computed   decides what the network gives: a layer's option
    training   matters to Darknet's training alone: kept, and written into Darknet's files again
    neutral    would decide, but has the value at which nothing happens; refused at another one
    unknown    kept likewise, and named; refused where it looks like a slip of the pen

A file does not hold class names; whether images are letterboxed it says with `letter_box`, which the older program
passes over. Without it they are, as there; the newer one stretches them then.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

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

LIKELY_SLIP = 0.75  # how near an unknown option is to a known one, from 0 to 1, where it is taken for a slip of the pen
NOTHING: Mapping[str, Any] = MappingProxyType({})

_OTHER_NAMES = {
    "network": "net",
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
}
_NET = "width height channels letter_box"
_NET_TRAINING = (
    "batch subdivisions time_steps notruth inputs momentum decay learning_rate learning_rate_min burn_in power "
    "max_batches policy step steps scale scales gamma seq_scales sgdr_cycle sgdr_mult adam B1 B2 eps random angle "
    "aspect saturation exposure hue flip blur mixup cutmix mosaic mosaic_bound gaussian_noise center clip "
    "min_crop max_crop min_ratio max_ratio ema_alpha label_smooth_eps resize_step max_chart_loss track "
    "augment_speed optimized_memory workspace_size_limit_MB sequential_subdivisions try_fix_nan weights_reject_freq "
    "equidistant_point badlabels_rejection_percentage num_sigmas_reject_badlabels use_cuda_graph loss_scale "
    "dynamic_minibatch contrastive contrastive_jit_flip contrastive_color unsupervised attention adversarial_lr"
)
_TRAINING_OF_ANY_LAYER = (
    "stopbackward onlyforward dont_update burnin_update train_only_bn learning_rate clip truth smooth"
)
_OTHERS = {  # sections of Darknet's that are no layers of a detector such as these
    **dict.fromkeys(
        ("crnn", "conv_lstm", "lstm", "gru", "rnn", "history"),
        "carries what it saw in one picture to the next; only detectors of one picture are read",
    ),
    **dict.fromkeys(
        ("region", "detection", "Gaussian_yolo"), "is the head of another detector; expected [yolo], YOLOv3's and later"
    ),
}
Options = Mapping[str, str]


@dataclass(frozen=True)
class Description:
    """What a file says.

    kept: by layer (`net`, `layers.3`) the options that decide nothing here: those of training, and unknown ones.
    shared: layer number -> the layer whose weights it has, too; the weights file has them once.
    notes: what was done with options, a sentence each, for people.
    """

    architecture: Architecture
    kept: dict[str, dict[str, str]]
    shared: dict[int, int]
    notes: tuple[str, ...]


def read_cfg(path: Path, classes: Sequence[str] | None = None, name: str | None = None) -> Architecture:
    """The network that `path` describes. The arguments, and what is raised, are those of `read_description`."""
    return read_description(path, classes, name).architecture


def read_description(
    path: Path, classes: Sequence[str] | None = None, name: str | None = None, resize: Resize | None = None
) -> Description:
    """All that `path` says.

    classes: the names of its classes, `class0`, `class1`, ... by default. name: the file's, by default. resize: instead
        of what the file says.
    Raises InputError, with the line, for anything that is not a network that detpress can compute.
    """
    kinds = _kinds_by_section()
    net, *sections = _read_sections(path, kinds)
    image_size = _read_net(net)
    letter_box = net.whole_number("letter_box", 1, 0, 1)
    layers: list[Layer] = []
    maps: list[FeatureMap] = []
    images = FeatureMap(3, *image_size)
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
            found = section.error(str(error), "layers")
            _check_sides(net, image_size, maps, found)
            raise found from error
        if isinstance(layer, Yolo):
            count = section.whole_number("classes", 20, 1, LARGEST_COUNT)
            if class_count not in (None, count):
                raise section.error(f"classes: {count}, but {class_count} in the yolo layer before", "classes")
            class_count = count
            _check_head(section, layers[-1] if layers else None, len(layer.anchors), count)
            if layer.new_coords:
                layers[-1] = _with_logits(section, layers[-1])
        layers.append(layer)
    for i, section in enumerate(sections):
        for source in layers[i].refers_to:
            after = layers[source + 1] if source + 1 < len(layers) else None
            if isinstance(after, Yolo) and after.new_coords:
                raise section.error(f"takes layer {source}, whose map is that of a [yolo] with new_coords", "layers")
    if class_count is None:
        raise InputError(f"{path}: expected a [yolo] section: only detectors of the YOLOv3 family are read")
    names = [f"class{i}" for i in range(class_count)] if classes is None else list(classes)
    if len(names) != class_count:
        raise InputError(f"{path}: has {class_count} classes, but {len(names)} names are given")
    said: Resize = "letterbox" if letter_box else "stretch"
    try:
        architecture = Architecture(name or path.stem, tuple(layers), tuple(names), image_size, resize or said)
    except InputError as error:
        raise net.error(str(error), "height") from error
    places = ["net", *(f"layers.{i}" for i in range(len(sections)))]
    return Description(
        architecture,
        {place: section.kept for place, section in zip(places, [net, *sections], strict=True) if section.kept},
        _shared(sections, layers, [images, *maps]),
        (_resize_note(net, architecture.resize, resize), *_option_notes(path, [net, *sections])),
    )


def _weights(layer: Layer, taken: FeatureMap) -> tuple[object, ...] | None:
    """Which tensors a convolution has, of which shapes."""
    if not isinstance(layer, Convolution):
        return None
    return (layer.weight_shape(taken.channels), layer.weights_in_order())


def _shared(sections: Sequence[Section], layers: Sequence[Layer], before: Sequence[FeatureMap]) -> dict[int, int]:
    """Layer number -> the one whose weights it has. before: what is before each layer, the images before the first."""
    found: dict[int, int] = {}
    for i, (section, layer) in enumerate(zip(sections, layers, strict=True)):
        if "share_index" in section.options:
            [source] = section.sources("share_index", i)
            other = layers[source]
            if not (_weights(layer, before[i]) == _weights(other, before[source]) is not None):
                raise section.error(f"share_index: layer {source} has weights of another shape", "share_index")
            found[i] = found.get(source, source)
    return found


def _resize_note(net: Section, taken: Resize, asked: Resize | None) -> str:
    how = "letterboxed (keep their proportions)" if taken == "letterbox" else "stretched to the input's shape"
    if asked is not None:
        why = "as asked for"
    elif "letter_box" in net.options:
        why = f"as letter_box={net.word('letter_box', '')} says"
    else:
        why = "since letter_box is absent; AlexeyAB's Darknet stretches them then (--resize stretch)"
    return f"images are {how}, {why}"


def _option_notes(path: Path, sections: Sequence[Section]) -> list[str]:
    notes = []
    if kept := sum(len(section.kept) - len(section.unknown) for section in sections):
        notes.append(f"options of Darknet's training: {kept} kept for its files, else without effect")
    if binary := [section.line for section in sections if section.word("xnor", "0") != "0"]:
        notes.append(
            f"xnor: the {len(binary)} convolutions with it (line {binary[0]} is the first) are computed in float, from "
            "the weights as they are stored; Darknet takes their signs and those of what they are given"
        )
    for section in sections:
        for option, (line, value) in section.unknown.items():
            notes.append(f"{path}:{line}: [{section.kind}] {option}={value[:40]} is not known: kept, without effect")
    return notes


def write_cfg(architecture: Architecture, kept: Mapping[str, Options] = NOTHING) -> str:
    """The text of a cfg file from which `read_cfg` gives the same architecture, its names aside.

    kept: by layer (`net`, or its name), further options. Sections have the options that Darknet would else guess, in a
    fixed order; layers are named by their numbers from the start. Raises InputError for a layer that Darknet does not
    have.
    """
    height, width = architecture.input_size
    letter_box = int(architecture.resize == "letterbox")
    net = {"width": width, "height": height, "channels": 3, "letter_box": letter_box}
    text = [_section("net", {**kept.get("net", NOTHING), **net})]
    for i, (layer, name) in enumerate(zip(architecture.layers, architecture.names, strict=True)):
        if layer.section is None:
            raise InputError(f"layers.{i}: Darknet has no {kind_name(type(layer))} layer")
        try:
            options = layer.to_section(i, architecture.layers, len(architecture.classes))
        except InputError as error:
            raise InputError(f"layers.{i}: {error}") from error
        text.append(_section(layer.section, {**options, **kept.get(name, NOTHING)}))
    return "\n".join(text)


def _section(kind: str, options: Mapping[str, object]) -> str:
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
    if kind in _OTHERS:
        raise InputError(f"{path}:{line}: [{kind}] {_OTHERS[kind]}")
    if kind != "net" and kind not in kinds:
        raise InputError(f"{path}:{line}: unknown section {text[:40]}; {nearest(kind, ['net', *kinds])}")
    return Section(path, line, kind)


def _add_option(section: Section, line: int, text: str, kinds: dict[str, type[Layer]]) -> None:
    """Raises InputError for an option that would change what is computed, and for one that is probably misspelt."""
    option, _, value = text.partition("=")
    kind = None if section.kind == "net" else kinds[section.kind]
    computed = (kind.section_options if kind else _NET).split()
    training = (kind.training_options if kind else _NET_TRAINING).split() + _TRAINING_OF_ANY_LAYER.split()
    neutral = kind.neutral_options if kind else {}
    first = section.options.get(option)
    if first and option in training:
        return  # Darknet takes the first
    section.options[option] = (line, value)
    if not value:
        raise section.error(f"expected option=value, got '{text[:40]}'", option)
    if option in neutral:
        if not _equal(value, neutral[option]):
            raise section.error(f"{option}: {value[:40]}; only {neutral[option]} is computed", option)
    elif option in training:
        section.kept[option] = value
    elif option not in computed:
        meant = [known for known in computed if get_close_matches(option, [known], cutoff=LIKELY_SLIP)]
        if meant:
            raise section.error(f"unknown option '{option[:40]}'; {nearest(option, meant)}", option)
        section.kept[option] = value
        section.unknown[option] = (line, value)
    if first:
        raise section.error(f"{option}: given twice, first in line {first[0]}", option)


def _equal(text: str, other: str) -> bool:
    try:
        return float(text) == float(other)
    except ValueError:
        return text == other


def _read_net(net: Section) -> tuple[int, int]:
    """Height and width of the input."""
    height, width = (net.whole_number(side, 0, 0, LARGEST_COUNT) for side in ("height", "width"))
    if not width or not height:
        raise net.error(f"width={width}, height={height}: expected both, in pixels", "height")
    channels = net.whole_number("channels", 3, 1, LARGEST_COUNT)
    if channels != 3:
        raise net.error(f"channels: {channels}; only images of 3 channels are read", "channels")
    return height, width


def _check_sides(net: Section, image_size: tuple[int, int], maps: Sequence[FeatureMap], misfit: InputError) -> None:
    """Raises InputError where maps do not fit together since a side of the input is no multiple of the stride."""
    for option, side, of_maps in (
        ("height", image_size[0], [found.height for found in maps]),
        ("width", image_size[1], [found.width for found in maps]),
    ):
        smallest = min((pixels for pixels in of_maps if pixels > 1), default=side)  # 1: an average over all
        stride = 2 ** round(math.log2(side / smallest))
        if side % stride:
            raise net.error(
                f"{option}: {side}; expected a multiple of {stride}, the stride of the smallest map ({misfit})", option
            ) from misfit


def _with_logits(section: Section, head: Layer) -> Layer:
    """See `Yolo`."""
    assert isinstance(head, Convolution)
    if head.activation != "logistic":
        raise section.error("new_coords: expected activation=logistic of the [convolutional] before it", "new_coords")
    return replace(head, activation="linear")


def _check_head(section: Section, before: Layer | None, anchors: int, classes: int) -> None:
    filters = anchors * (5 + classes)
    if not isinstance(before, Convolution) or before.filters != filters:
        of_all = "" if "mask" in section.options else " (all: there is no mask)"
        raise section.error(
            f"with {classes} classes and {anchors} anchors{of_all} "
            f"expects a [convolutional] of {filters} filters before it"
        )
