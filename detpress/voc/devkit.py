"""Reads a Pascal VOC devkit: image sets, annotations, images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from detpress.errors import InputError, nearest
from detpress.voc.annotation import Annotation, object_line, read_annotation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True, eq=False)
class Devkit:
    """One or more folders with Annotations, JPEGImages and ImageSets/Main, read as one data set.

    root: the folder that the user named.
    folders: `root` itself, or the VOC2007, VOC2012, ... below it, whose image sets of the same name are joined: the
        set `trainval` of VOCdevkit is what is known as VOC07+12. No two of a set's images may have the same name, since
        results files tell images by name alone.
    """

    root: Path
    folders: tuple[Path, ...]
    given_classes: tuple[str, ...] | None
    _sets: dict[str, list[Annotation]] = field(default_factory=dict, repr=False)
    _annotations: dict[Path, Annotation] = field(default_factory=dict, repr=False)  # sets share images: read once
    _fingerprints: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names given, or all that the annotations of any image set name, sorted."""
        if self.given_classes is not None:
            return self.given_classes
        sets = (self.image_set(name) for name in self.image_set_names)
        return tuple(sorted({name for annotations in sets for annotation in annotations for name in annotation.names}))

    @cached_property
    def image_set_names(self) -> tuple[str, ...]:
        """Names of the image sets. Those of a class (`dog_train`, two columns) are not listed, but can be read."""
        paths = (path for folder in self.folders for path in (folder / "ImageSets/Main").glob("*.txt"))
        return tuple(sorted({path.stem for path in paths if max(map(len, _columns(path)), default=1) == 1}))

    def image_set(self, name: str) -> list[Annotation]:
        """Annotations of the image set, in the file's order.

        Raises InputError for a set that does not exist or is empty, an image that has no annotation or is named twice,
        a name that climbs out of the folder, and a class that is not in the list given.
        """
        if name not in self._sets:
            self._sets[name] = self._read_set(name)
        return self._sets[name]

    def image_path(self, annotation: Annotation) -> Path:
        """The annotated image's file. Raises InputError where there is none."""
        folder = annotation.path.parents[len(PurePosixPath(annotation.image).parts)] / "JPEGImages"
        for suffix in IMAGE_SUFFIXES:
            path = folder / f"{annotation.image}{suffix}"
            if path.is_file():
                return path
        raise InputError(f"{annotation.path}: its image {folder / annotation.image}.jpg does not exist")

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

    def _read_set(self, name: str) -> list[Annotation]:
        paths = [folder / "ImageSets/Main" / f"{name}.txt" for folder in self.folders]
        found = [path for path in paths if path.is_file()]
        if not found or PurePosixPath(name).name != name:
            raise InputError(f"{self.root}: no image set '{name}'; {nearest(name, self.image_set_names)}")
        named: dict[str, str] = {}
        annotations = [annotation for path in found for annotation in self._read_set_file(path, named)]
        if not annotations:
            raise InputError(f"{found[0]}: empty; expected the name of an image a line")
        return annotations

    def _read_set_file(self, path: Path, named: dict[str, str]) -> list[Annotation]:
        """named: where each image was named already; added to."""
        folder = path.parents[2] / "Annotations"
        annotations = []
        for number, columns in enumerate(_columns(path), start=1):
            if not columns:
                continue
            image = columns[0]  # sets of a class say in a second column whether the image holds it
            if image.startswith("/") or ".." in image.split("/"):
                raise InputError(f"{path}:{number}: '{image}' climbs out of the data set's folder")
            if image in named:
                raise InputError(f"{path}:{number}: image '{image}' was named before, at {named[image]}")
            named[image] = f"{path}:{number}"
            source = folder / f"{image}.xml"
            if source not in self._annotations:
                if not source.is_file():
                    raise InputError(f"{path}:{number}: image '{image}' has no annotation: {source} does not exist")
                self._annotations[source] = self._check_classes(read_annotation(source, image))
            annotations.append(self._annotations[source])
        return annotations

    def _check_classes(self, annotation: Annotation) -> Annotation:
        for i, name in enumerate(annotation.names):
            if self.given_classes is not None and name not in self.given_classes:
                place = f"{annotation.path}:{object_line(annotation, i)}: object {i + 1}"
                raise InputError(f"{place}: class '{name}' is not in the list; {nearest(name, self.given_classes)}")
        return annotation


def _columns(path: Path) -> list[list[str]]:
    """The words of each line of an image set's file."""
    try:
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as an image set: {error}") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def open_devkit(root: Path, classes: Sequence[str] | None = None) -> Devkit:
    """The data set in `root`: VOCdevkit (its VOC20xx folders joined), one VOC20xx folder, or a bare folder alike.

    classes: the names that may occur; by default, all that do. Raises InputError where the folder is no devkit.
    """
    if not root.is_dir():
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
