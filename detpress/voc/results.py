"""The VOC devkit's results files: `comp4_det_<image set>_<class>.txt`, one detection a line.

    000004 0.702732 89.0 112.0 516.0 466.0        image, score, xmin, ymin, xmax, ymax (1-based, inclusive)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpress.errors import InputError, nearest

PREFIX = "comp4_det_"


@dataclass(frozen=True)
class ClassDetections:
    """All detections of one class, in any order.

    images: name of the image of each. scores: float64 (n,). boxes: float64 (n, 4), VOC coordinates.
    """

    images: tuple[str, ...]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]


NO_DETECTIONS = ClassDetections((), np.zeros(0), np.zeros((0, 4)))


def read_results(folder: Path, image_set: str, classes: Sequence[str]) -> dict[str, ClassDetections]:
    """Detections by class from the files in `folder`, or in `folder`/results/Main; a class may have no file.

    Raises InputError for a folder without such files, a file of an unknown class, and, with its line, a line that is
    no detection.
    """
    for place in (folder, folder / "results/Main"):
        files = {path.stem.removeprefix(f"{PREFIX}{image_set}_"): path for path in place.glob(f"{PREFIX}{image_set}_*.txt")}
        if files:
            break
    else:
        raise InputError(f"{folder}: expected files {PREFIX}{image_set}_<class>.txt, here or in results/Main")
    for name, path in files.items():
        if name not in classes:
            raise InputError(f"{path}: unknown class '{name}'; {nearest(name, classes)}")
    return {name: _read_file(files[name]) if name in files else NO_DETECTIONS for name in classes}


def write_results(folder: Path, image_set: str, detections: Mapping[str, ClassDetections]) -> None:
    """Writes one file a class. Numbers are written so that reading them gives the same bits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in detections.items():
        numbers = np.column_stack([found.scores, found.boxes]).tolist()
        lines = [
            f"{image} {' '.join(map(repr, row))}\n" for image, row in zip(found.images, numbers, strict=True)
        ]
        (folder / f"{PREFIX}{image_set}_{name}.txt").write_text("".join(lines), encoding="utf-8")


def _read_file(path: Path) -> ClassDetections:
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    try:
        numbers = np.array([row[1:] for row in rows if row], dtype=np.float64).reshape(-1, 5)
    except ValueError:
        raise _bad_line(path, rows) from None
    if not np.isfinite(numbers).all() or numbers.size != 5 * sum(map(bool, rows)):
        raise _bad_line(path, rows)
    return ClassDetections(tuple(row[0] for row in rows if row), numbers[:, 0], numbers[:, 1:])


def _bad_line(path: Path, rows: list[list[str]]) -> InputError:
    """The error for the first line that is no detection."""
    for number, row in enumerate(rows, start=1):
        try:
            good = not row or (len(row) == 6 and np.isfinite([float(value) for value in row[1:]]).all())
        except ValueError:
            good = False
        if not good:
            break
    return InputError(
        f"{path}:{number}: expected an image, a score and four coordinates, all numbers finite; got '{' '.join(row)}'"
    )
