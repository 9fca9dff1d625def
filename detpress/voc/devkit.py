"""Reads a Pascal VOC devkit: image sets, annotations, images."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from detpress.errors import InputError, cut_short, nearest, shortened
from detpress.files.plain import plain
from detpress.voc.annotation import Annotation, object_line, read_annotation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")  # in any case
FLAGGED = re.compile(r"(.*\S)\s+(-1|0|1)")  # a line of a class's set: whether the image holds it
HIDDEN = "."  # what file names begin with that are no part of the data, such as the `._x.txt` that macOS leaves


class UnlistedClassError(InputError):
    """An object is of a class that the list given does not have."""


@dataclass(frozen=True, eq=False)
class Devkit:
    """One or more folders with Annotations, JPEGImages and ImageSets/Main, read as one data set.

    root: the folder that the user named.
    folders: `root` itself, or the VOC2007, VOC2012, ... below it, whose image sets of the same name are joined: the
        set `trainval` of VOCdevkit is what is known as VOC07+12. No two of a set's images may have the same name, since
        results files tell images by name alone.
    hidden: image sets that may not be seen, such as the one that a plugin's result is scored on.
    """

    root: Path
    folders: tuple[Path, ...]
    given_classes: tuple[str, ...] | None
    hidden: frozenset[str] = frozenset()
    _sets: dict[str, list[Annotation]] = field(default_factory=dict, repr=False)
    _annotations: dict[Path, Annotation] = field(default_factory=dict, repr=False)  # sets share images: read once
    _listings: dict[Path, dict[str, Path]] = field(default_factory=dict, repr=False)
    _fingerprints: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names given, or all that the annotations of any image set name, sorted."""
        if self.given_classes is not None:
            return self.given_classes
        found = {
            name
            for path in self._set_files
            for _, image in _image_names(path)
            if (annotation := self._annotation_if_any(path, image))
            for name in annotation.names
        }
        return tuple(sorted(found))

    @cached_property
    def image_set_names(self) -> tuple[str, ...]:
        """Names of the image sets. Those of a class (`dog_train`, two columns) are not listed, but can be read."""
        return tuple(sorted({path.stem for path in self._set_files}))

    @cached_property
    def _set_files(self) -> tuple[Path, ...]:
        """The files of the sets that are listed; text that cannot be read matters only where somebody asks for it."""
        found = []
        for path in (path for folder in self.folders for path in sorted((folder / "ImageSets/Main").glob("*.txt"))):
            try:
                if not path.name.startswith(HIDDEN) and not _is_of_a_class(path):
                    found.append(path)
            except InputError:
                continue
        return tuple(found)

    def _annotation_if_any(self, set_file: Path, image: str) -> Annotation | None:
        """None for an image whose annotation is withheld, as in VOC's test sets, or unreadable: `image_set` tells."""
        try:
            return None if _climbs(image) else self._annotation(set_file, image)
        except InputError:
            return None

    def hiding(self, name: str) -> "Devkit":
        """The same data set, but for the image set `name`."""
        return replace(self, hidden=self.hidden | {name})

    def image_set(self, name: str) -> list[Annotation]:
        """Annotations of the image set, in the file's order.

        Raises InputError for a set that does not exist or is empty, an image that has no annotation or is named twice,
        a name that climbs out of the folder, a class that is not in the list given, and a hidden set.
        """
        self._check_visible(name)
        if name not in self._sets:
            annotations = []
            for found in self.entries(name):
                if isinstance(found, InputError):
                    raise found
                annotations.append(found)
            self._sets[name] = annotations
        return self._sets[name]

    def _check_visible(self, name: str) -> None:
        if name in self.hidden:
            raise InputError(f"a plugin may not see the image set '{name}': it is what the result is scored on")

    def image_path(self, annotation: Annotation) -> Path:
        """The annotated image's file. Raises InputError where there is none."""
        folder = annotation.path.parents[len(PurePosixPath(annotation.image).parts)] / "JPEGImages"
        wanted = folder / f"{annotation.image}.jpg"
        if wanted.is_file():
            return wanted
        files = self._files_in(wanted.parent)
        for suffix in IMAGE_SUFFIXES:
            if found := files.get(f"{wanted.stem}{suffix}"):
                return found
        raise InputError(
            f"{annotation.path}: its image {wanted} does not exist, nor with {', '.join(IMAGE_SUFFIXES[1:])}"
        )

    def _files_in(self, folder: Path) -> dict[str, Path]:
        """By name, its suffix in small letters; of `a.png` and `a.PNG`, the first."""
        if folder not in self._listings:
            paths = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
            self._listings[folder] = {f"{path.stem}{path.suffix.lower()}": path for path in paths}
        return self._listings[folder]

    def fingerprint(self, names: Sequence[str]) -> str:
        """sha256 over the image sets, annotations and images, by content: the same wherever the data set lies."""
        asked = tuple(names)
        if asked not in self._fingerprints:
            self._fingerprints[asked] = self._fingerprint(asked)
        return self._fingerprints[asked]

    def _fingerprint(self, names: Sequence[str]) -> str:
        total = hashlib.sha256(repr(self.given_classes).encode())
        for name in names:
            total.update(f"{name}\n".encode())
            for annotation in self.image_set(name):
                for path in (annotation.path, self.image_path(annotation)):
                    total.update(f"{annotation.image} {_sha256(path)}\n".encode())
        return total.hexdigest()

    def entries(self, name: str) -> Iterator[Annotation | InputError]:
        """The annotations of the image set, in the place of each that cannot be had what is wrong with it.

        Raises InputError for a set that does not exist, is empty or hidden.
        """
        self._check_visible(name)
        paths = [folder / "ImageSets/Main" / f"{name}.txt" for folder in self.folders]
        found = [path for path in paths if _exists(path)]
        if not found or PurePosixPath(name).name != name:
            raise InputError(f"{self.root}: no image set '{name}'; {nearest(name, self.image_set_names)}")
        lines = [(path, number, image) for path in found for number, image in _image_names(path)]
        if not lines:
            raise InputError(f"{found[0]}: empty; expected the name of an image a line")
        named: dict[str, str] = {}  # where each image was named already
        for line in lines:
            try:
                yield self._entry(*line, named)
            except InputError as error:
                yield error

    def _entry(self, path: Path, number: int, image: str, named: dict[str, str]) -> Annotation:
        """named: added to."""
        if _climbs(image):
            raise InputError(f"{path}:{number}: {shortened(image)} climbs out of the data set's folder")
        if image in named:
            raise InputError(f"{path}:{number}: image {shortened(image)} was named before, at {named[image]}")
        named[image] = f"{path}:{number}"
        if not _exists(source := _annotation_file(path, image)):
            expected = source.with_name(cut_short(source.name))
            raise InputError(f"{path}:{number}: image {shortened(image)} has no annotation: {expected} does not exist")
        return self._annotation(path, image)

    def _annotation(self, set_file: Path, image: str) -> Annotation:
        source = _annotation_file(set_file, image)
        if source not in self._annotations:
            self._annotations[source] = self._check_classes(read_annotation(source, image))
        return self._annotations[source]

    def _check_classes(self, annotation: Annotation) -> Annotation:
        for i, name in enumerate(annotation.names):
            if self.given_classes is not None and name not in self.given_classes:
                place = f"{annotation.path}:{object_line(annotation, i)}: object {i + 1}"
                raise UnlistedClassError(
                    f"{place}: class '{name}' is not in the list; {nearest(name, self.given_classes)}"
                )
        return annotation


def _exists(path: Path) -> bool:
    """False, too, where no disk could hold so long a name: there `Path.exists` raises."""
    try:
        return path.exists()
    except OSError:
        return False


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of each line of an image set's file that is not empty."""
    try:
        lines = plain(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as an image set: {getattr(error, 'strerror', None) or error}"
        ) from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _image_names(path: Path) -> list[tuple[int, str]]:
    """Line and name of each image of a set. A name may hold spaces: only what is no image's name can be a flag."""
    return [(number, _unflagged(path, line)) for number, line in _lines(path)]


def _unflagged(path: Path, line: str) -> str:
    flagged = FLAGGED.fullmatch(line)
    return flagged[1] if flagged and not _exists(_annotation_file(path, line)) else line


def _is_of_a_class(path: Path) -> bool:
    """Whether the set says of each image whether it holds a class; by its first line."""
    lines = _lines(path)
    return bool(lines) and _unflagged(path, lines[0][1]) != lines[0][1]


def _climbs(image: str) -> bool:
    return image.startswith("/") or ".." in image.split("/")


def _annotation_file(set_file: Path, image: str) -> Path:
    return set_file.parents[2] / "Annotations" / f"{image}.xml"


def _sha256(path: Path) -> str:
    try:
        with plain(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def open_devkit(root: Path, classes: Sequence[str] | None = None) -> Devkit:
    """The data set in `root`: VOCdevkit (its VOC20xx folders joined), one VOC20xx folder, or a bare folder alike.

    classes: the names that may occur; by default, all that do. Raises InputError where the folder is no devkit.
    """
    if not (_exists(root) and root.is_dir()):
        raise InputError(f"{root}: no such folder; expected a VOC devkit")
    folders = [root] if (root / "ImageSets/Main").is_dir() else sorted(root.glob("VOC20[0-9][0-9]"))
    for folder in folders or [root]:
        for part in ("ImageSets/Main", "Annotations"):
            if not (folder / part).is_dir():
                raise InputError(f"{folder / part}: no such folder; expected a VOC devkit")
    return Devkit(root, tuple(folders), None if classes is None else tuple(classes))


def check_boxes(
    annotations: Sequence[Annotation], bad_boxes: Literal["skip", "refuse"]
) -> list[tuple[Annotation, int]]:
    """The boxes from which nothing can be learnt, as (annotation, index of the object).

    Training leaves them out; the evaluator sees them, as the reference does. Raises InputError, naming the first, when
    they are refused.
    """
    found = [(annotation, int(i)) for annotation in annotations for i in annotation.degenerate.nonzero()[0]]
    if found and bad_boxes == "refuse":
        annotation, i = found[0]
        raise InputError(
            f"{annotation.path}:{object_line(annotation, i)}: object {i + 1} ({annotation.names[i]}): box "
            f"{annotation.boxes[i].tolist()} has no area or lies outside {annotation.width}x{annotation.height}; "
            f"{len(found)} such boxes refused (bad_boxes: refuse)"
        )
    return found
