"""A data set, whatever its layout: image sets, annotations, images. `devkit` is what Pascal VOC calls its own."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from detpress.errors import InputError, nearest, shortened
from detpress.voc.annotation import Annotation
from detpress.voc.image_sets import find_image_sets
from detpress.voc.layout import EXPECTED_NAME, Layout, Listed, file_digest, is_a_line
from detpress.voc.yolo import Yolo


class UnlistedClassError(InputError):
    """An object is of a class that the list given does not have."""


@dataclass(frozen=True, eq=False)
class Devkit:
    """A data set that was opened; what is read of it is read once.

    root: the folder that the user named.
    hidden: image sets that may not be seen, such as the one that a plugin's result is scored on.
    """

    root: Path
    layout: Layout
    given_classes: tuple[str, ...] | None
    hidden: frozenset[str] = frozenset()
    _sets: dict[str, list[Annotation]] = field(default_factory=dict, repr=False)
    _annotations: dict[tuple[Path, str], Annotation] = field(default_factory=dict, repr=False)  # sets share images
    _fingerprints: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The class names given, those that the layout lists, or all that annotations of any image set name, sorted.

        Annotations that are withheld, as in VOC's test sets, or cannot be read are passed over: `image_set` tells.
        """
        if self.given_classes is not None:
            return self.given_classes
        if self.layout.class_names is not None:
            return self.layout.class_names
        found: set[str] = set()
        for name in self.layout.set_names:
            listed: list[Listed] = []
            with suppress(InputError):
                listed = self.layout.listed(name)
            for image in listed:
                with suppress(InputError):
                    found.update(self._annotation(image).names)
        return tuple(sorted(found))

    @property
    def image_set_names(self) -> tuple[str, ...]:
        """Names of the image sets, sorted."""
        return self.layout.set_names

    def __str__(self) -> str:
        """Where it lies, in which layout, and its image sets with their sizes: in one line."""
        sets = []
        for name in self.image_set_names:
            with suppress(InputError):
                sets.append(f"{name} ({len(self.layout.listed(name)):,})")
        return f"{self.root}: {self.layout.name}, image sets {', '.join(sets) or 'none'}"

    def hiding(self, name: str) -> "Devkit":
        """The same data set, but for the image set `name`."""
        return replace(self, hidden=self.hidden | {name})

    def naming(self, classes: Sequence[str] | None) -> "Devkit":
        """The same data set with other class names given, as `open_devkit` takes them."""
        given = None if classes is None else tuple(classes)
        if given == self.given_classes:
            return self
        return replace(self, given_classes=given, _sets={}, _annotations={}, _fingerprints={})

    def image_set(self, name: str) -> list[Annotation]:
        """Annotations of the image set, in its order.

        Raises InputError for a set that does not exist or is empty, an image that has no annotation or is named twice,
        a name that climbs out of the folder or is no line of text, a class that is not in the list given, and a hidden
        set.
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
        return self.layout.picture(annotation)

    def stray_texts(self) -> list[Path]:
        """Of YOLO's layout, the texts that have no picture and are not read; in the others that is an error."""
        return self.layout.strays() if isinstance(self.layout, Yolo) else []

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
                for digest in (self.layout.digest(annotation), file_digest(self.image_path(annotation))):
                    total.update(f"{annotation.image} {digest}\n".encode())
        return total.hexdigest()

    def entries(self, name: str) -> Iterator[Annotation | InputError]:
        """The annotations of the image set, in the place of each that cannot be had what is wrong with it.

        Raises InputError for a set that does not exist, is empty or hidden.
        """
        self._check_visible(name)
        named: dict[str, str] = {}  # where each image was named already
        for listed in self.layout.listed(name):
            try:
                if not is_a_line(listed.image):
                    where = f"{repr(listed.place)[1:-1]}: image {shortened(listed.image)}"
                    raise InputError(f"{where}: {EXPECTED_NAME}; rename it")
                if listed.image in named:
                    where = f"{listed.place}: image {shortened(listed.image)} was named before, at"
                    raise InputError(f"{where} {named[listed.image]}")
                named[listed.image] = listed.place
                yield self._annotation(listed)
            except InputError as error:
                yield error

    def _annotation(self, listed: Listed) -> Annotation:
        key = listed.source, listed.image
        if key not in self._annotations:
            self._annotations[key] = self._check_classes(self.layout.read(listed))
        return self._annotations[key]

    def _check_classes(self, annotation: Annotation) -> Annotation:
        for i, name in enumerate(annotation.names):
            if not is_a_line(name):
                raise InputError(f"{annotation.place(i)}: class {shortened(name)}: {EXPECTED_NAME}")
            if self.given_classes is not None and name not in self.given_classes:
                raise UnlistedClassError(
                    f"{annotation.place(i)}: class '{name}' is not in the recipe's or detector's list; "
                    f"{nearest(name, self.given_classes)}"
                )
        return annotation


def open_devkit(root: Path, classes: Sequence[str] | None = None) -> Devkit:
    """The data set in Pascal VOC's layout in `root`.

    classes: the names that may occur; by default, all that do. Raises InputError where the folder is no devkit.
    """
    return Devkit(root, find_image_sets(root), None if classes is None else tuple(classes))


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
            f"{annotation.place(i)} ({annotation.names[i]}): box "
            f"{annotation.boxes[i].tolist()} has no area or lies outside {annotation.width}x{annotation.height}; "
            f"{len(found)} such boxes refused (bad_boxes: refuse)"
        )
    return found
