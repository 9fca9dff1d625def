"""Tables of numbers that a stage leaves in its folder."""

import csv
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from detpress.errors import InputError


@dataclass(frozen=True)
class Curves:
    """A table of numbers: each column after the first is a curve over the first, its empty cells left out."""

    x: str
    lines: dict[str, list[tuple[float, float]]]


def training_tables(folder: Path) -> list[Curves]:
    """Its trainings in order: the mean of each term of the loss by epoch."""
    return [_read_curves(path) for path in _numbered(folder / "training")]


def validation_scores(folder: Path) -> list[tuple[int, float]]:
    """mAP on the validation images after epochs of the last training that was scored; empty where none was.

    Raises InputError where the table is no such.
    """
    paths = _numbered(folder / "validation")
    if not paths:
        return []
    try:
        return [(int(epoch), score) for epoch, score in _read_curves(paths[-1]).lines["mAP"]]
    except (ValueError, KeyError, csv.Error) as error:
        raise InputError(f"{paths[-1]}: not what detpress writes; expected epochs and mAP") from error


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.csv"), key=lambda path: int(path.stem))


def kept_tables(folder: Path) -> dict[str, Curves]:
    """What the plugin kept as `NAME.csv`, by that name; what is no table of numbers is left out."""
    found = {}
    for path in sorted((folder / "files").glob("*.csv")):
        with suppress(ValueError, csv.Error):
            found[path.stem] = _read_curves(path)
    return {name: curves for name, curves in found.items() if any(curves.lines.values())}


def _read_curves(path: Path) -> Curves:
    """Raises ValueError where it is no table of numbers."""
    (x, *names), *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    lines: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for at, *cells in rows:
        for name, cell in zip(names, cells, strict=True):
            if cell:
                lines[name].append((float(at), float(cell)))
    if not all(math.isfinite(number) for points in lines.values() for point in points for number in point):
        raise ValueError(f"{path}: a number that is not finite")
    return Curves(x, lines)
