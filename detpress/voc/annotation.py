"""One image's annotation, read from a VOC XML file that need not be trusted."""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from numpy.typing import NDArray

from detpress.errors import InputError

SIDES = ("xmin", "ymin", "xmax", "ymax")
FLAGS = ("difficult", "truncated")


@dataclass(frozen=True)
class Annotation:
    """What an annotation file says of its image.

    image: the image's name in the image set, without suffix.
    width, height: pixels.
    boxes: float64 (n, 4), VOC coordinates (1-based, inclusive) as in the file.
    difficult, truncated: bool (n,).
    """

    image: str
    path: Path
    width: int
    height: int
    names: tuple[str, ...]
    boxes: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def degenerate(self) -> NDArray[np.bool_]:
        """bool (n,): boxes from which nothing can be learnt: first not before last pixel, or wholly off the image."""
        x0, y0, x1, y1 = self.boxes.T
        return (x1 <= x0) | (y1 <= y0) | (x1 < 1) | (y1 < 1) | (x0 > self.width) | (y0 > self.height)


def read_annotation(path: Path, image: str | None = None) -> Annotation:
    """The annotation in `path`, of the image called `image` (by default, like the file).

    Raises InputError, naming the file and the line, for malformed XML, for a document type or entities of its own (an
    entity may expand without bound), and for a field that is missing or no number.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        root = fromstring(content, forbid_dtd=True)
    except ParseError as error:
        raise InputError(f"{path}:{error.position[0]}: malformed XML: {error.msg}") from error
    except (DefusedXmlException, ValueError, LookupError) as error:
        line = _line(content, b"<!DOCTYPE", 0)
        raise InputError(f"{path}:{line}: refused: {type(error).__name__}; expected plain XML") from error
    objects = root.findall("object")
    width, height = (_size(root, side, path, content) for side in ("width", "height"))
    names = []
    boxes = np.zeros((len(objects), 4))
    for i, found in enumerate(objects):
        name = (found.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{path}:{_line(content, b'<object', i)}: object {i + 1}: expected <name>")
        names.append(name)
        for j, side in enumerate(SIDES):
            boxes[i, j] = _coordinate(found.find("bndbox"), side, i, path, content)
    difficult, truncated = (np.array([_flag(found, key) for found in objects], bool) for key in FLAGS)
    return Annotation(image or path.stem, path, width, height, tuple(names), boxes, difficult, truncated)


def _flag(found: Element, name: str) -> bool:
    return (found.findtext(name) or "0").strip() == "1"


def _size(root: Element, side: str, path: Path, content: bytes) -> int:
    text = root.findtext(f"size/{side}") or ""
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        value = 0
    if not 0 < value < 10**6:
        line = _line(content, b"<size", 0)
        raise InputError(f"{path}:{line}: size/{side}: expected a number of pixels, got '{text}'")
    return value


def _coordinate(box: Element | None, side: str, index: int, path: Path, content: bytes) -> float:
    text = "" if box is None else box.findtext(side) or ""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e6:
        line = _line(content, b"<object", index)
        raise InputError(f"{path}:{line}: object {index + 1}: bndbox/{side}: expected a number, got '{text}'")
    return value


def _line(content: bytes, tag: bytes, index: int) -> int:
    """The line of the `index`-th `tag`, the first line where there is none."""
    starts = [found.start() for found in re.finditer(re.escape(tag), content)]
    return content.count(b"\n", 0, starts[index]) + 1 if index < len(starts) else 1
