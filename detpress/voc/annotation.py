"""One image's annotation; and reading it from a VOC XML file that need not be trusted."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from defusedxml import ElementTree as DefusedElementTree
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from detpress.errors import InputError
from detpress.files.plain import plain

SIDES = ("xmin", "ymin", "xmax", "ymax")
UNSPECIFIED = "Unspecified"  # what some tools write where nobody said whether an object is difficult or truncated


@dataclass(frozen=True, eq=False)
class Annotation:
    """What an annotation file says of an image.

    image: the image's name in the image set, without suffix.
    path: the file; of COCO JSON, all images have the same.
    width, height: pixels, both 0 where the file does not say (some tools write 0 x 0).
    boxes: float64 (n, 4), VOC coordinates (1-based, inclusive), in VOC's files as they stand there.
    difficult, truncated: bool (n,); False where the file does not say.
    places: where in the file each object stands, as messages go on after the path; None for XML, which is searched.
    """

    image: str
    path: Path
    width: int
    height: int
    names: tuple[str, ...]
    boxes: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    places: tuple[str, ...] | None = None

    @property
    def key(self) -> tuple[Path, str]:
        """The same for the same image wherever it is listed."""
        return self.path, self.image

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, where the file says them."""
        return (self.width, self.height) if self.width else None

    def with_size(self, width: int, height: int) -> "Annotation":
        return replace(self, width=width, height=height)

    @property
    def degenerate(self) -> NDArray[np.bool_]:
        """bool (n,): boxes from which nothing can be learnt.

        The last pixel is not after the first (zero area), or no pixel of the box lies in the image. A box that only
        sticks out of the image, as boxes counted from 0 do, is not degenerate.
        """
        x0, y0, x1, y1 = self.boxes.T
        width, height = self.size or (np.inf, np.inf)
        outside = (x1 < 1) | (y1 < 1) | (x0 > width) | (y0 > height)
        return np.asarray((x1 <= x0) | (y1 <= y0) | outside)

    def place(self, index: int) -> str:
        """Where the object stands, for messages."""
        if self.places is not None:
            return f"{self.path}{self.places[index]}"
        return f"{self.path}:{object_line(self, index)}: object {index + 1}"

    @property
    def learnt(self) -> NDArray[np.bool_]:
        """bool (n,): objects that a training learns from, neither degenerate nor difficult."""
        return np.asarray(~self.degenerate & ~self.difficult)


def read_annotation(path: Path, image: str | None = None) -> Annotation:
    """The annotation in `path`, of the image called `image` (by default, like the file).

    Raises InputError, naming the file and the line, for malformed XML, for a document type or entities of its own (an
    entity may expand without bound), and for a field that is missing or no number; a size may be missing.
    """
    try:
        content = plain(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    root = _parse(content, path)
    objects = root.findall("object")
    size = root.find("size")
    width, height = _pixels(size, "width", path, content), _pixels(size, "height", path, content)
    if not (width and height):
        width = height = 0
    names = []
    boxes = np.zeros((len(objects), 4))
    difficult, truncated = np.zeros(len(objects), bool), np.zeros(len(objects), bool)
    for i, found in enumerate(objects):
        name = (found.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{path}:{_line(content, b'<object', i)}: object {i + 1}: expected <name>")
        names.append(name)
        box = found.find("bndbox")
        for j, side in enumerate(SIDES):
            text = "" if box is None else box.findtext(side) or ""
            boxes[i, j] = _number(text, side, path, content, i)
        text = (found.findtext("difficult") or "").strip()
        if text not in ("", UNSPECIFIED):
            difficult[i] = _number(text, "difficult", path, content, i) != 0
        truncated[i] = (found.findtext("truncated") or "").strip() == "1"
    return Annotation(image or path.stem, path, width, height, tuple(names), boxes, difficult, truncated)


def object_line(annotation: Annotation, index: int) -> int:
    """The line of the annotation's file where the object starts; for messages."""
    return _line(annotation.path.read_bytes(), b"<object", index)


def _parse(content: bytes, path: Path) -> ElementTree.Element:
    """The root element of XML without a document type, and so without entities of its own.

    defusedxml refuses these from a parser in Python, half as fast as the one in C (benchmarks/evaluator.py). In ASCII a
    document type can start in no other way than `<!DOCTYPE`: where that is absent, the parser in C reads the text (a
    str, so that the file cannot name another encoding).
    """
    try:
        if content.isascii() and b"<!DOCTYPE" not in content:
            return ElementTree.fromstring(content.decode("ascii"))
        root: ElementTree.Element = DefusedElementTree.fromstring(content, forbid_dtd=True)
        return root
    except ElementTree.ParseError as error:
        raise InputError(f"{path}:{error.position[0]}: malformed XML: {error.msg}") from error
    except DefusedXmlException as error:
        line = _line(content, b"<!DOCTYPE", 0)
        raise InputError(f"{path}:{line}: document type refused; expected XML without <!DOCTYPE or entities") from error
    except (ValueError, LookupError) as error:
        raise InputError(f"{path}:1: expected XML in a known encoding: {error}") from error


def _pixels(size: ElementTree.Element | None, side: str, path: Path, content: bytes) -> int:
    text = "" if size is None else (size.findtext(side) or "").strip()
    try:
        value = int(float(text or 0))
    except (ValueError, OverflowError):
        value = -1
    if not 0 <= value < 10**6:
        line = _line(content, b"<size", 0)
        raise InputError(f"{path}:{line}: size/{side}: expected a number of pixels, got {text[:40]!r}")
    return value


def _number(text: str, field: str, path: Path, content: bytes, index: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e6:
        line = _line(content, b"<object", index)
        raise InputError(f"{path}:{line}: object {index + 1}: {field}: expected a number, got {text.strip()[:40]!r}")
    return value


def _line(content: bytes, tag: bytes, index: int) -> int:
    """The line of the `index`-th `tag`, the first line where there is none."""
    starts = [found.start() for found in re.finditer(re.escape(tag), content)]
    return content.count(b"\n", 0, starts[index]) + 1 if index < len(starts) else 1
