"""YOLO's layout: a text beside or opposite each picture, and a file that names the classes.

A line of the text is an object: `class x y width height`, the class by its number, the box by its centre and size as
fractions of the picture. `data.yaml` names classes and image sets; without it `classes.txt` names the classes, one a
line. A picture at `.../images/...` has its text at `.../labels/...`, any other beside it. A picture without a text, or
with an empty one, is a picture without objects.

The texts say of no object that it is difficult. Fractions are of the picture as people see it: where EXIF data turns
it, that of the turned one, as those who train YOLO read it.
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detpress.errors import InputError, shortened
from detpress.files.lines_of_yaml import LoaderWithLines, refuse
from detpress.files.pictures import SUFFIXES, PictureFolders, is_hidden, pictures_below, upright_size
from detpress.files.plain import plain
from detpress.voc.annotation import Annotation
from detpress.voc.exact import voc_from_yolo
from detpress.voc.layout import (
    EXPECTED_NAME,
    Listed,
    content_digest,
    is_a_file_name,
    is_a_line,
    no_such_set,
    set_folders,
)

DESCRIPTION = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NO_SETS = ("path", "names", "nc", "download")  # keys of the description that name no image set
SETS = ("train", "val", "test")  # keys of the description that name an image set; others may
CLASSES = "classes.txt"
PICTURES, LABELS = "images", "labels"  # folders of the same names below
COLUMNS = ("class", "x", "y", "width", "height")
NUMBER = re.compile(r"[+-]?(\d{1,60}\.?\d{0,80}|\.\d{1,80})([eE][+-]?\d{1,2})?", re.ASCII)
LARGEST = 2.0  # of a fraction: a box may stick out of its picture, and numbers of pixels are told from fractions


class _Loader(LoaderWithLines):
    """Keys given twice are refused.

    So are aliases of lists and mappings: by way of them, a few lines could stand for any number of values.
    """

    remedy = ": quote it"

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        alias = self.current_event if self.check_event(yaml.AliasEvent) else None
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            refuse("an alias of more than one value; write the values out", alias.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                refuse(f"key {shortened(key.value)} given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Yolo:
    """sets: the pictures of each image set."""

    name = "YOLO text"

    def __init__(self, root: Path, class_names: tuple[str, ...], sets: dict[str, list[Path]]) -> None:
        self.class_names = class_names
        self._root = root
        self._sets = sets
        self._pictures: dict[tuple[Path, str], Path] = {}

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._sets))

    def listed(self, image_set: str) -> list[Listed]:
        if image_set not in self._sets:
            raise no_such_set(self._root, image_set, self._sets)
        listed = []
        for path in self._sets[image_set]:
            image, source = image_name(path.relative_to(self._root)), text_of(self._root, path)
            self._pictures[source, image] = path
            listed.append(Listed(image, source, str(path)))
        if not listed:
            raise InputError(f"{self._root}: the image set '{image_set}' has no pictures ({', '.join(SUFFIXES)})")
        return listed

    def read(self, listed: Listed) -> Annotation:
        picture = self._pictures[listed.source, listed.image]
        width, height = upright_size(picture)
        rows = list(_rows(listed.source)) if listed.source.exists() else []
        names, boxes, places = [], np.zeros((len(rows), 4)), []
        for i, (number, columns) in enumerate(rows):
            place = f"{listed.source}:{number}"
            fractions = _fractions(columns, place)
            names.append(self._class_name(columns[0], place))
            boxes[i] = voc_from_yolo(fractions, width, height)
            places.append(f":{number}")
        none = np.zeros(len(rows), bool)
        return Annotation(
            listed.image, listed.source, width, height, tuple(names), boxes, none, none.copy(), tuple(places)
        )

    def _class_name(self, text: str, place: str) -> str:
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) >= len(self.class_names):
            raise InputError(
                f"{place}: class: expected a number from 0 to {len(self.class_names) - 1}, got {text[:40]!r}"
            )
        return self.class_names[int(text)]

    def picture(self, annotation: Annotation) -> Path:
        return self._pictures[annotation.key]

    def digest(self, annotation: Annotation) -> str:
        return content_digest(annotation)

    def strays(self) -> list[Path]:
        """Texts in folders `labels` that have no picture, and are not read."""
        texts = {text_of(self._root, picture) for pictures in self._sets.values() for picture in pictures}
        folders = {text.parent for text in texts if LABELS in text.relative_to(self._root).parts[:-1]}
        pictures = PictureFolders()
        return [
            text
            for folder in sorted(folders)
            for text in sorted(folder.glob("*.txt"))
            if text not in texts
            and text.name != CLASSES
            and not is_hidden(text, self._root)
            and pictures.find(_picture_folder(self._root, folder), text.stem) is None
        ]


def find_described_yolo(root: Path) -> Yolo | None:
    """By `data.yaml`; None where there is none. Raises InputError where it names what is not there."""
    path = next((root / name for name in DESCRIPTION if (root / name).is_file()), None)
    return _described(root, path) if path else None


def find_yolo(root: Path) -> Yolo | None:
    """By `classes.txt` alone: folders `train`, `val` and so on are image sets, or all pictures are one.

    None where there is no such file. Raises InputError where no picture has a text.
    """
    path = next((path for path in (root / CLASSES, root / LABELS / CLASSES) if path.is_file()), None)
    if path is None:
        return None
    classes = tuple(line for _, line in _lines(path))
    _check_names(classes, path)
    start = root / PICTURES if (root / PICTURES).is_dir() else root
    sets = {name: pictures_below(folder) for name, folder in set_folders(start).items()}
    _check_texts(root, sets, path)
    return Yolo(root, classes, {name: pictures for name, pictures in sets.items() if pictures})


def image_name(picture: Path) -> str:
    """The image's name of a picture's path below the root: without suffix, and without the folder `images`."""
    parts = list(picture.with_suffix("").parts)
    if PICTURES in parts[:-1]:
        parts.remove(PICTURES)
    return "/".join(parts)


def text_of(root: Path, picture: Path) -> Path:
    """Where the picture's text stands: opposite, in `labels` for the last folder `images` below the root, or beside."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == PICTURES]
    if folders:
        parts[folders[-1]] = LABELS
    return root.joinpath(*parts)


def _picture_folder(root: Path, texts: Path) -> Path:
    """Opposite a folder of texts below a folder `labels`."""
    parts = list(texts.relative_to(root).parts)
    parts[len(parts) - 1 - parts[::-1].index(LABELS)] = PICTURES
    return root.joinpath(*parts)


def _check_texts(root: Path, sets: dict[str, list[Path]], path: Path) -> None:
    """Raises InputError where there are pictures, and none of them has a text."""
    texts = [text_of(root, picture) for pictures in sets.values() for picture in pictures]
    if texts and not any(text.is_file() for text in texts):
        raise InputError(f"{path}: none of {len(texts):,} pictures has a text, such as {texts[0]}")


def _described(root: Path, path: Path) -> Yolo:
    try:
        loader = _Loader(plain(path).read_text(encoding="utf-8-sig"))
        root_node = loader.get_single_node()
        said = None if root_node is None else loader.construct_document(root_node)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        line = f":{mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{line}: not YAML: {problem}") from error
    except RecursionError:
        raise InputError(f"{path}: nested too deep") from None
    if not isinstance(root_node, yaml.MappingNode) or not isinstance(said, dict):
        raise InputError(f"{path}: expected keys: names, and train, val or test")
    _check_quoted(loader, root_node, path)
    classes = _named_classes(said.get("names"), path)
    if isinstance(count := said.get("nc"), int) and count != len(classes):
        raise InputError(f"{path}: nc: {count}, but names has {len(classes)}")
    sets = {
        str(key): _pictures_of(root, path, key, value, said.get("path"))
        for key, value in said.items()
        if key not in NO_SETS and _is_place(value) and (key in SETS or _there(root, value, said.get("path")))
    }
    for key_node, _ in root_node.value:
        name = str(loader.construct_object(key_node))
        if name in sets and not is_a_file_name(name):
            where = f"{path}:{key_node.start_mark.line + 1}: {shortened(name)}"
            raise InputError(f"{where}: no name of an image set; expected a plain one, such as train")
    if not sets:
        raise InputError(f"{path}: expected train, val or test: a folder of pictures, or a file that lists them")
    _check_texts(root, sets, path)
    return Yolo(root, classes, sets)


def _check_quoted(loader: yaml.SafeLoader, root: yaml.MappingNode, path: Path) -> None:
    """Raises InputError for the name of a class that YAML reads as something else, such as `yes`, which is true."""
    names = next((value for key, value in root.value if key.value == "names"), None)
    if isinstance(names, yaml.MappingNode):
        nodes = [value for _, value in names.value]
    else:
        nodes = names.value if isinstance(names, yaml.SequenceNode) else []
    for node in nodes:
        if isinstance(node, yaml.ScalarNode) and str(found := loader.construct_object(node)) != node.value:
            raise InputError(
                f"{path}:{node.start_mark.line + 1}: names: YAML reads {node.value[:40]} as {found!s:.40}: quote it"
            )


def _named_classes(names: Any, path: Path) -> tuple[str, ...]:
    """A list, or a mapping of the numbers from 0 on."""
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise InputError(f"{path}: names: expected the numbers from 0 to {len(names) - 1} as keys")
        names = [names[i] for i in range(len(names))]
    if names is None:
        raise InputError(f"{path}: names: missing; expected a list of class names")
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise InputError(f"{path}: names: expected a list of class names, got {shortened(names)}")
    classes = tuple(str(name).strip() for name in names)
    _check_names(classes, path)
    return classes


def _check_names(classes: tuple[str, ...], path: Path) -> None:
    for i, name in enumerate(classes):
        if not is_a_line(name):
            raise InputError(f"{path}: class {i}: {shortened(name)}: {EXPECTED_NAME}")
        if not name or name in classes[:i]:
            raise InputError(f"{path}: class {i}: {'named twice' if name else 'expected a name'}: '{name}'")
    if not classes:
        raise InputError(f"{path}: expected the name of at least one class")


def _is_place(value: Any) -> bool:
    """Whether it can name places; an empty text names none."""
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, str) and part.strip() for part in parts)


def _there(root: Path, value: Any, base: Any) -> bool:
    """Whether all that is named are folders, or texts that can list pictures."""
    found = [_found(root, part, base) for part in ([value] if isinstance(value, str) else value)]
    return bool(found) and all(path and (path.is_dir() or path.suffix == ".txt") for path in found)


def _found(root: Path, place: str, base: Any) -> Path | None:
    """Where `place` lies within the root: from the folder `path` on or from the root, `../` at its start passed over.

    Whoever wrote the file had other folders around it: Roboflow's say `../train/images` of what lies beside them.
    """
    bases = [root / base, root] if isinstance(base, str) else [root]
    top = os.path.abspath(root)  # noqa: PTH100  (links are left as the user made them)
    for start in bases:
        for tried in dict.fromkeys([place, re.sub(r"^(\.\./)+", "", place)]):
            try:
                path = Path(os.path.abspath(start / tried))  # noqa: PTH100
                if path.exists() and path.is_relative_to(top):
                    return root / path.relative_to(top)
            except (OSError, ValueError):
                continue
    return None


def _pictures_of(root: Path, path: Path, key: str, value: Any, base: Any) -> list[Path]:
    pictures: list[Path] = []
    for place in [value] if isinstance(value, str) else value:
        found = _found(root, place, base)
        if found is None:
            raise InputError(f"{path}: {key}: {place[:80]}: nothing there within {root}")
        pictures += pictures_below(found) if found.is_dir() else _listed_pictures(root, found, base)
    return pictures


def _listed_pictures(root: Path, path: Path, base: Any) -> Iterator[Path]:
    """Those that a text names, one a line, from its own folder on, from `path` or from the root."""
    if path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path}: a picture; expected a folder of pictures, or a text that lists them")
    for number, line in _lines(path):
        own = _found(root, str(path.parent.relative_to(root) / line), None) if not line.startswith("/") else None
        found = own or _found(root, line, base)
        if found is None:
            raise InputError(f"{path}:{number}: no picture {shortened(line)} within {root}")
        yield found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not empty."""
    try:
        lines = plain(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split()) for number, line in _lines(path))


def _fractions(columns: list[str], place: str) -> list[str]:
    """The four numbers of a row. Raises InputError where they are no box in fractions of the picture."""
    if len(columns) != len(COLUMNS):
        more = ", with commas; expected spaces" if "," in columns[0] else ""
        more = ": an outline is no box" if len(columns) > 6 else more
        raise InputError(f"{place}: expected {' '.join(COLUMNS)}, got {len(columns)} columns{more}")
    for name, text in zip(COLUMNS[1:], columns[1:], strict=True):
        least = 0.0 if name in ("width", "height") else 1 - LARGEST
        if not NUMBER.fullmatch(text) or not least <= float(text) <= LARGEST:
            raise InputError(f"{place}: {name}: expected a fraction of the picture, from 0 to 1, got {text[:40]!r}")
    return columns[1:]
