"""What can be seen of a data set before anything is computed with it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from detpress.detector.images import picture_size, read_image
from detpress.voc.annotation import Annotation
from detpress.voc.devkit import Devkit
from detpress.voc.results import check_class_name


def check_pictures(devkit: Devkit, names: Sequence[str]) -> None:
    """Raises InputError for a picture of the image sets that is absent, no image, or of another size than annotated,
    and for a class whose results no file could hold. Pixels are not decoded: a file cut short is seen where it is read.
    """
    for name in dict.fromkeys(names):
        for annotation in devkit.image_set(name):
            for object_class in set(annotation.names):
                check_class_name(object_class, name)
            path = devkit.image_path(annotation)
            if picture_size(path) != (annotation.size or picture_size(path)):
                read_image(path, annotation.size)  # turned by its EXIF data, or refused


def shared_images(devkit: Devkit, one: str, other: str) -> list[Annotation]:
    """The images of the image set `other` that are in `one`, too, under the same name or as the same file's content."""
    known = {annotation.path for annotation in devkit.image_set(one)}
    sizes: dict[int, list[Path]] = {}
    for annotation in devkit.image_set(one):
        path = devkit.image_path(annotation)
        sizes.setdefault(path.stat().st_size, []).append(path)
    return [
        annotation
        for annotation in devkit.image_set(other)
        if annotation.path in known or _is_among(devkit.image_path(annotation), sizes)
    ]


def _is_among(path: Path, by_size: dict[int, list[Path]]) -> bool:
    """Only files of the same size are read."""
    candidates = by_size.get(path.stat().st_size, [])
    return bool(candidates) and _digest(path) in map(_digest, candidates)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
