"""What is in a data set: its pictures, classes and objects, and what somebody should look at before training."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from detpress.errors import InputError
from detpress.files.pictures import picture_size
from detpress.progress import Progress
from detpress.run.data_check import broken_pictures
from detpress.voc.annotation import Annotation
from detpress.voc.devkit import Devkit
from detpress.voc.lookalikes import groups_alike, hashes_or_errors

NAMED = 5  # of a long list, where it is printed
ROUNDING = 0.01  # pixels: fractions of six digits, as YOLO's texts have them, are rounded by less


@dataclass(frozen=True)
class SetContents:
    """objects: by class, difficult ones among them. empty: images without objects."""

    images: int
    empty: int
    objects: dict[str, int]
    difficult: int


@dataclass(frozen=True)
class Inspection:
    """sizes: pictures by `width x height`, the most frequent first.

    broken: what cannot be read, a line each. shared: images that two image sets share, a line for each pair of sets.
    strays: texts without a picture. empty_boxes: boxes without area or outside of their picture. outside: boxes that
    stick out of it. twice: boxes that one image has of one class more than once.
    """

    data: str
    sets: dict[str, SetContents]
    sizes: dict[str, int]
    broken: list[str]
    shared: list[str]
    strays: list[str]
    empty_boxes: list[str]
    outside: list[str]
    twice: list[str]

    @property
    def text(self) -> str:
        lines = [self.data, "", *_columns(self.sets), "", f"sizes: {_first(self.sizes_as_text, ', ')}"]
        for what, found, also_none in (
            ("cannot be read", self.broken, True),
            ("the same picture in two image sets", self.shared, True),
            ("texts without a picture", self.strays, False),
            ("boxes without area or outside of their picture", self.empty_boxes, True),
            ("boxes that stick out of their picture", self.outside, True),
            ("boxes given twice", self.twice, False),
        ):
            if found or also_none:
                lines += ["", f"{what}: {len(found)}", *(f"  {line}" for line in found[:NAMED])]
            if len(found) > NAMED:
                lines.append(f"  and {len(found) - NAMED} more")
        return "\n".join(lines)

    @property
    def sizes_as_text(self) -> list[str]:
        return [f"{size} ({count:,})" for size, count in self.sizes.items()]


def inspect_data(devkit: Devkit, progress: Progress) -> Inspection:
    """Reads every annotation and every picture of all image sets.

    What cannot be read is in the result. Raises InputError where the image sets themselves cannot.
    """
    broken: list[str] = []
    read: dict[str, list[Annotation]] = {}
    for name in devkit.image_set_names:
        read[name] = []
        try:
            for found in devkit.entries(name):
                if isinstance(found, InputError):
                    broken.append(str(found))
                else:
                    read[name].append(found)
        except InputError as error:
            broken.append(str(error))
    every = list({annotation.key: annotation for found in read.values() for annotation in found}.values())
    broken += [line for lines in broken_pictures(devkit, every, progress).values() for line in lines]
    sized = [_sized(devkit, annotation) for annotation in every]
    sizes = Counter(f"{annotation.width}x{annotation.height}" for annotation in sized if annotation.size)
    flat = [(annotation, i) for annotation in sized for i in annotation.degenerate.nonzero()[0].tolist()]
    out = [(annotation, i) for annotation in sized for i in _sticking_out(annotation)]
    again = [(annotation, i) for annotation in sized for i in _given_before(annotation)]
    return Inspection(
        str(devkit),
        {name: _contents(devkit, found) for name, found in read.items()},
        dict(sizes.most_common()),
        list(dict.fromkeys(broken)),
        _shared(devkit, read, every, progress),
        [str(path) for path in devkit.stray_texts()],
        [_box(*box) for box in flat],
        [_box(*box) for box in out],
        [_box(*box) for box in again],
    )


def _sized(devkit: Devkit, annotation: Annotation) -> Annotation:
    """With the picture's size where its annotation says none."""
    try:
        return annotation if annotation.size else annotation.with_size(*picture_size(devkit.image_path(annotation)))
    except InputError:
        return annotation


def _sticking_out(annotation: Annotation) -> list[int]:
    """The boxes that leave the picture, but for those that are outside of it, or have no area."""
    width, height = annotation.size or (np.inf, np.inf)
    x0, y0, x1, y1 = annotation.boxes.T
    out = np.maximum(np.maximum(1 - x0, 1 - y0), np.maximum(x1 - width, y1 - height)) > ROUNDING
    found: list[int] = (out & ~annotation.degenerate).nonzero()[0].tolist()
    return found


def _given_before(annotation: Annotation) -> list[int]:
    """The objects whose class and box an earlier one has."""
    first: dict[tuple[str, tuple[float, ...]], int] = {}
    objects = zip(annotation.names, map(tuple, annotation.boxes.tolist()), strict=True)
    return [i for i, found in enumerate(objects) if first.setdefault(found, i) != i]


def _box(annotation: Annotation, index: int) -> str:
    size = f"{annotation.width}x{annotation.height}" if annotation.size else "a picture that cannot be read"
    return f"{annotation.place(index)} ({annotation.names[index]}): {annotation.boxes[index].tolist()} in {size}"


def _contents(devkit: Devkit, annotations: Sequence[Annotation]) -> SetContents:
    counts = Counter(name for annotation in annotations for name in annotation.names)
    return SetContents(
        len(annotations),
        sum(not annotation.names for annotation in annotations),
        {name: counts[name] for name in devkit.classes},
        int(sum(annotation.difficult.sum() for annotation in annotations)),
    )


def _shared(
    devkit: Devkit, read: dict[str, list[Annotation]], every: Sequence[Annotation], progress: Progress
) -> list[str]:
    """Images of two sets that are the same by name or look alike; where one has others beside all of the other's, as
    VOC's trainval has, it is left out."""
    paths = {}
    for annotation in every:
        with suppress(InputError):  # told as broken, as pictures without a hash are
            paths[annotation.key] = devkit.image_path(annotation)
    found = dict(zip(paths, hashes_or_errors(list(paths.values()), devkit.root, progress), strict=True))
    hashes = {key: known for key, known in found.items() if not isinstance(known, InputError)}
    keys = list(hashes)
    groups = groups_alike(np.stack(list(hashes.values()))) if hashes else []
    group = {keys[i]: number for number, indices in enumerate(groups) for i in indices}
    lines = []
    for one, other in combinations(read, 2):
        own, others = ({annotation.key for annotation in read[name]} for name in (one, other))
        if own < others or others < own:
            continue
        first = {group[key]: key for key in sorted(own, reverse=True) if key in group}
        like = {key: key if key in own else first.get(group.get(key, -1)) for key in others}
        alike = {key: partner for key, partner in like.items() if partner is not None}
        if alike:
            key, partner = min(alike.items())
            such = key[1] if partner == key else f"{key[1]}, like {partner[1]}"
            lines.append(f"{len(alike)} of '{other}' are in '{one}' or look like one there, such as {such}")
    return lines


def _columns(sets: dict[str, SetContents]) -> list[str]:
    """A table: a row for each class, a column for each image set."""
    classes = list(dict.fromkeys(name for contents in sets.values() for name in contents.objects))
    rows = [["", *sets]]
    rows.append(["images", *(f"{contents.images:,}" for contents in sets.values())])
    rows.append(["images without objects", *(f"{contents.empty:,}" for contents in sets.values())])
    rows += [[name, *(f"{contents.objects[name]:,}" for contents in sets.values())] for name in classes]
    rows.append(["difficult objects", *(f"{contents.difficult:,}" for contents in sets.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _first(texts: Sequence[str], separator: str) -> str:
    more = f"{separator}and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return separator.join(texts[:NAMED]) + more
