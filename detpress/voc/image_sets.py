"""Pascal VOC's layout: Annotations, JPEGImages, and image sets in ImageSets/Main."""

import re
from functools import cached_property
from pathlib import Path, PurePosixPath

from detpress.errors import InputError, cut_short, shortened
from detpress.files.pictures import HIDDEN, SUFFIXES, PictureFolders
from detpress.files.plain import plain
from detpress.voc.annotation import Annotation, read_annotation
from detpress.voc.layout import Listed, climbs, file_digest, no_such_set

FLAGGED = re.compile(r"(.*\S)\s+(-1|0|1)")  # a line of a class's set: whether the image holds it


class ImageSets:
    """One or more folders with Annotations, JPEGImages and ImageSets/Main, read as one data set.

    folders: the folder that the user named, `root`, or the VOC2007, VOC2012, ... below it, whose image sets of the same
        name are joined: the set `trainval` of VOCdevkit is what is known as VOC07+12. No two of a set's images may have
        the same name, since results files tell images by name alone.
    """

    name = "Pascal VOC"
    class_names = None

    def __init__(self, root: Path, folders: tuple[Path, ...]) -> None:
        self._root = root
        self._folders = folders
        self._pictures = PictureFolders()

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        """Those of a class (`dog_train`, two columns) are not listed, but can be read.

        Text that cannot be read matters only where somebody asks for it.
        """
        found = set()
        for path in (path for folder in self._folders for path in (folder / "ImageSets/Main").glob("*.txt")):
            try:
                if not path.name.startswith(HIDDEN) and not _is_of_a_class(path):
                    found.add(path.stem)
            except InputError:
                continue
        return tuple(sorted(found))

    def listed(self, image_set: str) -> list[Listed]:
        paths = [folder / "ImageSets/Main" / f"{image_set}.txt" for folder in self._folders]
        found = [path for path in paths if exists(path)]
        if not found or PurePosixPath(image_set).name != image_set:
            raise no_such_set(self._root, image_set, self.set_names)
        listed = [
            Listed(image, _annotation_file(path, image), f"{path}:{number}")
            for path in found
            for number, image in _image_names(path)
        ]
        if not listed:
            raise InputError(f"{found[0]}: empty; expected the name of an image a line")
        return listed

    def read(self, listed: Listed) -> Annotation:
        if climbs(listed.image):
            raise InputError(f"{listed.place}: {shortened(listed.image)} climbs out of the data set's folder")
        if not exists(listed.source):
            expected = listed.source.with_name(cut_short(listed.source.name))
            raise InputError(
                f"{listed.place}: image {shortened(listed.image)} has no annotation: {expected} does not exist"
            )
        return read_annotation(listed.source, listed.image)

    def picture(self, annotation: Annotation) -> Path:
        folder = annotation.path.parents[len(PurePosixPath(annotation.image).parts)] / "JPEGImages"
        if found := self._pictures.find(folder, annotation.image):
            return found
        wanted = folder / f"{annotation.image}.jpg"
        raise InputError(f"{annotation.path}: its image {wanted} does not exist, nor with {', '.join(SUFFIXES[1:])}")

    def digest(self, annotation: Annotation) -> str:
        return file_digest(annotation.path)


def find_image_sets(root: Path) -> ImageSets:
    """VOCdevkit (its VOC20xx folders joined), one VOC20xx folder, or a bare folder alike.

    Raises InputError where the folder is no devkit.
    """
    if not (exists(root) and root.is_dir()):
        raise InputError(f"{root}: no such folder; expected a VOC devkit")
    folders = [root] if (root / "ImageSets/Main").is_dir() else sorted(root.glob("VOC20[0-9][0-9]"))
    for folder in folders or [root]:
        for part in ("ImageSets/Main", "Annotations"):
            if not (folder / part).is_dir():
                raise InputError(f"{folder / part}: no such folder; expected a VOC devkit")
    return ImageSets(root, tuple(folders))


def exists(path: Path) -> bool:
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
    return flagged[1] if flagged and not exists(_annotation_file(path, line)) else line


def _is_of_a_class(path: Path) -> bool:
    """Whether the set says of each image whether it holds a class; by its first line."""
    lines = _lines(path)
    return bool(lines) and _unflagged(path, lines[0][1]) != lines[0][1]


def _annotation_file(set_file: Path, image: str) -> Path:
    return set_file.parents[2] / "Annotations" / f"{image}.xml"
