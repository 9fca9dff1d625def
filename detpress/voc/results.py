"""The VOC devkit's results files: `comp4_det_<image set>_<class>.txt`, one detection a line.

Each line is image, score, xmin, ymin, xmax, ymax (1-based, inclusive):

    000004 0.702732 89.0 112.0 516.0 466.0

An image's name may hold spaces: the last five columns are the numbers. In a file's name a class's `/` stands as `%2F`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpress.errors import InputError, nearest, shortened
from detpress.files.plain import plain
from detpress.voc.layout import EXPECTED_NAME, is_a_line

PREFIX = "comp4_det_"
LONGEST_NAME = 255  # bytes of a file's name on the usual file systems
_LINE = np.dtype([("image", object), ("score", np.float64), ("box", np.float64, 4)])


@dataclass(frozen=True, eq=False)
class ClassDetections:
    """All detections of one class, in any order.

    images: name of the image of each. scores: float64 (n,). boxes: float64 (n, 4), VOC coordinates.
    """

    images: tuple[str, ...]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]


NO_DETECTIONS = ClassDetections((), np.zeros(0), np.zeros((0, 4)))


def joined(parts: Sequence[Mapping[str, ClassDetections]]) -> dict[str, ClassDetections]:
    """The detections by class of several detectors, each of which saw images of its own."""
    names = dict.fromkeys(name for part in parts for name in part)
    of_class = {name: [part.get(name, NO_DETECTIONS) for part in parts] for name in names}
    return {
        name: ClassDetections(
            tuple(image for found in several for image in found.images),
            np.concatenate([found.scores for found in several]),
            np.concatenate([found.boxes for found in several]),
        )
        for name, several in of_class.items()
    }


def read_results(
    folder: Path, image_set: str, classes: Sequence[str], image_sets: Sequence[str] = ()
) -> dict[str, ClassDetections]:
    """Detections by class from the files in `folder`, or in `folder`/results/Main; a class may have no file.

    image_sets: all sets of the data. Where one is named like the beginning of another (`test`, `test_small`), a file of
        the longer name is not taken for one of the class `small_...`.
    Classes of files that are not in `classes` come last: the detector knows them and the data may not. Raises
    InputError for a folder without such files, for one without a file of any class in `classes`, and, with its line,
    for a line that is no detection.
    """
    start = f"{PREFIX}{image_set}_"
    others = [f"{PREFIX}{name}_" for name in image_sets if name.startswith(f"{image_set}_")]
    names = {_file_name(name): name for name in classes}
    for place in (folder, folder / "results/Main"):
        found = {path.stem.removeprefix(start): path for path in place.glob("*.txt") if path.name.startswith(start)}
        files = {
            names.get(stem, stem.replace("%2F", "/")): path
            for stem, path in sorted(found.items())
            if stem in names or not path.name.startswith(tuple(others))
        }
        if files:
            break
    else:
        raise InputError(f"{folder}: expected files {start}<class>.txt, here or in results/Main")
    if files.keys().isdisjoint(classes):
        name, path = next(iter(files.items()))
        raise InputError(f"{path}: unknown class '{name}'; {nearest(name, classes)}")
    return {
        name: _read_file(files[name]) if name in files else NO_DETECTIONS for name in dict.fromkeys([*classes, *files])
    }


def write_results(folder: Path, image_set: str, detections: Mapping[str, ClassDetections]) -> None:
    """Writes one file a class. Numbers are written so that reading them gives the same bits.

    Raises InputError for a class name that no file can have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in detections.items():
        check_class_name(name, image_set)
        numbers = np.column_stack([found.scores, found.boxes]).tolist()
        lines = [f"{image} {' '.join(map(repr, row))}\n" for image, row in zip(found.images, numbers, strict=True)]
        (folder / f"{PREFIX}{image_set}_{_file_name(name)}.txt").write_text("".join(lines), encoding="utf-8")


def check_class_name(name: str, image_set: str) -> None:
    """Raises InputError where the results of the class could be in no file."""
    if not is_a_line(name):
        raise InputError(f"class {shortened(name)} has no results file: {EXPECTED_NAME}")
    if len(f"{PREFIX}{image_set}_{_file_name(name)}.txt".encode()) > LONGEST_NAME:
        raise InputError(
            f"class {shortened(name)} has no results file: expected a name of at most {LONGEST_NAME} bytes in all"
        )


def _file_name(name: str) -> str:
    """The class in a file's name, without `/`; `a%2Fb` becomes `a%252Fb`, so that no two classes share a file."""
    return re.sub("%(?=(?:25)*2F)", "%25", name).replace("/", "%2F")


def _read_file(path: Path) -> ClassDetections:
    try:
        lines = plain(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not any(map(str.strip, lines)):
        return NO_DETECTIONS
    try:
        return _parse(lines)
    except ValueError as error:
        number, line = next((i, line) for i, line in enumerate(lines, start=1) if line.strip() and not _is_good(line))
        raise InputError(
            f"{path}:{number}: expected an image, a score and four coordinates, all numbers finite; got {line[:80]!r}"
        ) from error


def _parse(lines: Sequence[str]) -> ClassDetections:
    """Raises ValueError where a line is no detection."""
    try:
        rows = np.loadtxt(lines, _LINE, comments=None, ndmin=1)
    except ValueError:
        return _parse_names_with_spaces([line for line in lines if line.strip()])
    if not (np.isfinite(rows["score"]).all() and np.isfinite(rows["box"]).all()):
        raise ValueError("not finite")
    return ClassDetections(tuple(rows["image"].tolist()), rows["score"], rows["box"])


def _parse_names_with_spaces(lines: Sequence[str]) -> ClassDetections:
    """A third as fast as the columns at once. Raises ValueError where a line is no detection."""
    columns = [line.rsplit(maxsplit=5) for line in lines]
    if any(len(row) < 6 for row in columns):
        raise ValueError("too few columns")
    numbers = np.loadtxt([" ".join(row[1:]) for row in columns], np.float64, comments=None, ndmin=2)
    if not np.isfinite(numbers).all():
        raise ValueError("not finite")
    return ClassDetections(tuple(row[0].strip() for row in columns), numbers[:, 0], numbers[:, 1:])


def _is_good(line: str) -> bool:
    try:
        _parse([line])
    except ValueError:
        return False
    return True
