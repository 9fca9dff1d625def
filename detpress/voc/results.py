"""The VOC devkit's results files: `comp4_det_<image set>_<class>.txt`, one detection a line.

Each line is image, score, xmin, ymin, xmax, ymax (1-based, inclusive):

    000004 0.702732 89.0 112.0 516.0 466.0
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detpress.errors import InputError, nearest

PREFIX = "comp4_det_"
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


def read_results(folder: Path, image_set: str, classes: Sequence[str]) -> dict[str, ClassDetections]:
    """Detections by class from the files in `folder`, or in `folder`/results/Main; a class may have no file.

    Raises InputError for a folder without such files, a file of an unknown class, and, with its line, a line that is
    no detection.
    """
    start = f"{PREFIX}{image_set}_"
    for place in (folder, folder / "results/Main"):
        files = {path.stem.removeprefix(start): path for path in place.glob("*.txt") if path.name.startswith(start)}
        if files:
            break
    else:
        raise InputError(f"{folder}: expected files {start}<class>.txt, here or in results/Main")
    for name, path in sorted(files.items()):
        if name not in classes:
            raise InputError(f"{path}: unknown class '{name}'; {nearest(name, classes)}")
    return {name: _read_file(files[name]) if name in files else NO_DETECTIONS for name in classes}


def write_results(folder: Path, image_set: str, detections: Mapping[str, ClassDetections]) -> None:
    """Writes one file a class. Numbers are written so that reading them gives the same bits.

    Raises InputError for a class name that is no file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in detections.items():
        if "/" in name or "\0" in name:
            raise InputError(f"class '{name}' has no results file: expected a name without '/'")
        numbers = np.column_stack([found.scores, found.boxes]).tolist()
        lines = [f"{image} {' '.join(map(repr, row))}\n" for image, row in zip(found.images, numbers, strict=True)]
        (folder / f"{PREFIX}{image_set}_{name}.txt").write_text("".join(lines), encoding="utf-8")


def _read_file(path: Path) -> ClassDetections:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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
    rows = np.loadtxt(lines, _LINE, comments=None, ndmin=1)
    if not (np.isfinite(rows["score"]).all() and np.isfinite(rows["box"]).all()):
        raise ValueError("not finite")
    return ClassDetections(tuple(rows["image"].tolist()), rows["score"], rows["box"])


def _is_good(line: str) -> bool:
    try:
        _parse([line])
    except ValueError:
        return False
    return True
