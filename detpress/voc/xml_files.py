"""Pascal VOC's XML without its image sets: in folders of their own, or beside the pictures."""

from functools import cached_property
from pathlib import Path

from detpress.errors import InputError
from detpress.files.pictures import SUFFIXES, PictureFolders, files_below
from detpress.voc.annotation import Annotation, read_annotation
from detpress.voc.layout import EVERYTHING, Listed, file_digest, no_such_set, set_folders

APART = (("Annotations", "JPEGImages"), ("annotations", "images"))  # folders of XML and of pictures


class XmlFiles:
    """Every XML file is the annotation of a picture; a picture without one is no part of the data set.

    sets: for each image set, its folder of XML and its folder of pictures, in which the same names are looked for.
    """

    class_names = None

    def __init__(self, root: Path, sets: dict[str, tuple[Path, Path]]) -> None:
        self._root = root
        self._sets = sets
        self._pictures = PictureFolders()
        self._picture_folders: dict[tuple[Path, str], Path] = {}

    @property
    def name(self) -> str:
        beside = all(texts == pictures for texts, pictures in self._sets.values())
        return "Pascal VOC's XML beside the pictures" if beside else "Pascal VOC without image sets"

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._sets))

    def listed(self, image_set: str) -> list[Listed]:
        if image_set not in self._sets:
            raise no_such_set(self._root, image_set, self._sets)
        folder, pictures = self._sets[image_set]
        listed = []
        for path in _xml_below(folder):
            prefix = "" if image_set == EVERYTHING else f"{image_set}/"
            image = f"{prefix}{path.relative_to(folder).with_suffix('').as_posix()}"
            self._picture_folders[path, image] = pictures / path.parent.relative_to(folder)
            listed.append(Listed(image, path, str(path)))
        return listed

    def read(self, listed: Listed) -> Annotation:
        return read_annotation(listed.source, listed.image)

    def picture(self, annotation: Annotation) -> Path:
        folder = self._picture_folders[annotation.key]
        if found := self._pictures.find(folder, annotation.path.stem):
            return found
        wanted = folder / f"{annotation.path.stem}.jpg"
        raise InputError(f"{annotation.path}: its image {wanted} does not exist, nor with {', '.join(SUFFIXES[1:])}")

    def digest(self, annotation: Annotation) -> str:
        return file_digest(annotation.path)


def find_xml_files(root: Path) -> XmlFiles | None:
    """None where no XML lies with a picture of its name."""
    found = {name: _folders(folder) for name, folder in set_folders(root).items()}
    sets = {name: folders for name, folders in found.items() if folders}
    return XmlFiles(root, sets) if sets else None


def _folders(folder: Path) -> tuple[Path, Path] | None:
    """The folder of XML and that of pictures."""
    for texts, pictures in [(folder / texts, folder / pictures) for texts, pictures in APART]:
        if pictures.is_dir() and _xml_below(texts):
            return texts, pictures
    pictures_here = PictureFolders()
    beside = any(pictures_here.find(path.parent, path.stem) for path in _xml_below(folder))
    return (folder, folder) if beside else None


def _xml_below(folder: Path) -> list[Path]:
    return files_below(folder, (".xml",))
