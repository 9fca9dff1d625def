"""Which part of the student learns from which part of the teacher: by stride, never by number.

    student, yolov3-tiny at 416        teacher, yolov3 at 416
    head 0: 13 x 13, stride 32    <-   head 0: 13 x 13, stride 32
    head 1: 26 x 26, stride 16    <-   head 1: 26 x 26, stride 16
                                       head 2: 52 x 52, stride 8        teaches nobody

A teacher of another input size sees the images at its own size, so that its maps of the same stride are larger or
smaller: whoever compares them resizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution
from detpress.detector.network import origin
from detpress.errors import InputError, nearest


@dataclass(frozen=True)
class Heads:
    """A head of the student and that of the teacher that it learns from: their places, coarse to fine."""

    student: int
    teacher: int


@dataclass(frozen=True)
class Link:
    """Numbers of a layer of the student and of the one of the teacher that it learns from, and their channels."""

    student: int
    teacher: int
    channels: int
    teacher_channels: int


def check_classes(student: Architecture, teacher: Architecture) -> None:
    """Raises InputError unless a class's number means the same in both."""
    if student.classes != teacher.classes:
        raise InputError(
            f"teacher: knows the classes {', '.join(teacher.classes)}; expected {', '.join(student.classes)}, "
            f"in this order, as the student does"
        )


def heads_by_stride(student: Architecture, teacher: Architecture) -> tuple[Heads, ...]:
    """Coarse to fine; of several heads of one stride the first with the first. One without a partner is left out.

    Raises InputError where no head is left.
    """
    own, others = student.strides, teacher.strides
    pairs = [
        Heads(place, other)
        for stride in dict.fromkeys(own)
        for place, other in zip(_places(own, stride), _places(others, stride), strict=False)
    ]
    if not pairs:
        raise InputError(f"teacher: has heads of strides {list(others)}; expected one of the student's, {list(own)}")
    return tuple(sorted(pairs, key=lambda pair: pair.student))


def _places(strides: Sequence[int], stride: int) -> list[int]:
    return [place for place, one in enumerate(strides) if one == stride]


def head_layers(architecture: Architecture, place: int) -> tuple[int, ...]:
    """The last two convolutions of a head, YOLOv3's 3x3 and 1x1; the last alone where there is none before it."""
    last = architecture.heads[place]
    [before] = (origin(architecture, layer) for layer in architecture.layers[last].inputs(last))
    return (before, last) if before >= 0 and isinstance(architecture.layers[before], Convolution) else (last,)


def head_input(architecture: Architecture, place: int) -> int:
    """The layer whose map a head's last two convolutions take."""
    first = head_layers(architecture, place)[0]
    [layer] = architecture.layers[first].inputs(first)
    return origin(architecture, layer)


def head_links(student: Architecture, teacher: Architecture) -> tuple[Link, ...]:
    """What the heads take, by stride."""
    return tuple(
        _link(student, teacher, head_input(student, pair.student), head_input(teacher, pair.teacher))
        for pair in heads_by_stride(student, teacher)
    )


def middle_links(student: Architecture, teacher: Architecture) -> tuple[Link, ...]:
    """Where the backbones of both leave stride 16, which is about their middle: layer 61 of YOLOv3, 8 of the tiny one.

    Raises InputError where one of them has no such stride.
    """
    return (_link(student, teacher, _end_of_stride(student, 16), _end_of_stride(teacher, 16)),)


def _end_of_stride(architecture: Architecture, stride: int) -> int:
    sides = [(given.height, given.width) for given in architecture.output_maps]
    height, width = architecture.input_size
    side = (height // stride, width // stride)
    if side not in sides:
        raise InputError(f"links: expected, as {architecture.name} has no map of stride {stride}")
    first = sides.index(side)
    after = next((i for i in range(first, len(sides)) if sides[i] != side), len(sides))
    return origin(architecture, after - 1)


def named_links(student: Architecture, teacher: Architecture, named: Mapping[str, str]) -> tuple[Link, ...]:
    """named: student's layer -> teacher's. Raises InputError for a name that no layer has."""
    return tuple(
        _link(student, teacher, _number(student, name, "links"), _number(teacher, other, f"links.{name}"))
        for name, other in named.items()
    )


def _number(architecture: Architecture, name: str, option: str) -> int:
    """Raises InputError, naming the option, unless the layer computes a map of its own."""
    known = {
        given: i
        for i, (given, layer) in enumerate(zip(architecture.names, architecture.layers, strict=True))
        if not layer.passes_on
    }
    if name not in known:
        raise InputError(f"{option}: '{name}' is no layer that computes a map; {nearest(name, known)}")
    return known[name]


def _link(student: Architecture, teacher: Architecture, layer: int, other: int) -> Link:
    return Link(layer, other, student.output_channels[layer], teacher.output_channels[other])
