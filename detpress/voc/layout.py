"""What a layout of files must tell so that a data set can be read from it."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from detpress.errors import InputError, nearest
from detpress.files.pictures import HIDDEN
from detpress.files.plain import plain
from detpress.voc.annotation import Annotation

EVERYTHING = "all"  # the image set of a data set that has no others
PARTS = ("train", "val", "valid", "validation", "test")  # what folders of image sets are called
BREAKING = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")  # in a line of UTF-8, or in XML

EXPECTED_NAME = "expected a name in UTF-8, without control characters and without spaces at its ends"


@dataclass(frozen=True)
class Listed:
    """An image of an image set.

    image: its name, without suffix.
    source: the file that says what is in it.
    place: where it is listed, for messages.
    """

    image: str
    source: Path
    place: str


class Layout(Protocol):
    """Where image sets, annotations and pictures lie below a folder, and how they are read."""

    @property
    def name(self) -> str:
        """As people call it, for messages."""

    @property
    def set_names(self) -> tuple[str, ...]:
        """The image sets, sorted."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the order of the file that lists them; None where only the annotations tell."""

    def listed(self, image_set: str) -> list[Listed]:
        """The images of the set, in its order. Raises InputError where it does not exist or is empty."""

    def read(self, listed: Listed) -> Annotation:
        """Raises InputError, naming the place, for what is absent or cannot be read."""

    def picture(self, annotation: Annotation) -> Path:
        """The image's file. Raises InputError where there is none."""

    def digest(self, annotation: Annotation) -> str:
        """sha256 of what is said of the image, wherever it lies."""


def no_such_set(root: Path, image_set: str, there: Iterable[str]) -> InputError:
    return InputError(f"{root}: no image set '{image_set}'; {nearest(image_set, there)}")


def file_digest(path: Path) -> str:
    """sha256 of the file. Raises InputError where it cannot be read."""
    try:
        with plain(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def content_digest(annotation: Annotation) -> str:
    """sha256 of what the annotation says, for a file that says more than what is in this image."""
    said = [
        annotation.size,
        annotation.names,
        annotation.boxes.tolist(),
        annotation.difficult.tolist(),
        annotation.truncated.tolist(),
    ]
    return hashlib.sha256(repr(said).encode()).hexdigest()


def climbs(image: str) -> bool:
    """Whether a name leads out of the folder that it is looked for in."""
    return image.startswith("/") or ".." in image.split("/")


def is_a_line(name: str) -> bool:
    """Whether a text file can hold the name as a line, from which the same name is read."""
    return name == name.strip() and not BREAKING.search(name)


def is_a_file_name(name: str) -> bool:
    """Whether files can be named after it, as those of an image set are in all layouts and in results."""
    return is_a_line(name) and PurePosixPath(name).name == name != "" and not name.startswith(HIDDEN)


def set_folders(folder: Path) -> dict[str, Path]:
    """The image sets of a folder that lists none: its folders `train`, `val` and so on, or all of it."""
    parts = {name: folder / name for name in PARTS if (folder / name).is_dir()}
    return parts if "train" in parts else {EVERYTHING: folder}
