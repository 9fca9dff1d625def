"""COCO's layout: a JSON file for each image set, and folders of pictures.

pycocotools reads such a file, too, but ends with a KeyError where something is missing; here it is told which entry is
wrong. Of an entry are read `bbox`, exactly, `category_id`, `iscrowd` and `ignore`: both make an object difficult, which
is what the evaluator does with them. `difficult` and `truncated` in `attributes`, as CVAT writes them, count, too.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detpress.errors import InputError, shortened
from detpress.files.pictures import is_hidden
from detpress.files.plain_json import read_json
from detpress.voc.annotation import Annotation
from detpress.voc.exact import voc_from_coco
from detpress.voc.layout import EXPECTED_NAME, Listed, climbs, content_digest, is_a_line, no_such_set

PREFIX = "instances_"
ROBOFLOW = "_annotations.coco.json"  # in the folder of its pictures
NUMBER = re.compile(r"-?\d{1,40}(\.\d{1,60})?([eE][+-]?\d{1,2})?", re.ASCII)
PARTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class _Contents:
    """A file's images by name; the objects of each by its id, with their index in the file; classes by id."""

    images: dict[str, dict[str, Any]]
    objects: dict[Any, list[tuple[int, dict[str, Any]]]]
    classes: dict[Any, str]


class CocoJson:
    """files: the JSON file of each image set."""

    name = "COCO JSON"

    def __init__(self, root: Path, files: dict[str, Path]) -> None:
        self._root = root
        self._files = files
        self._read: dict[Path, _Contents] = {}

    @cached_property
    def set_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._files))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Those of all files, each file's by their ids."""
        found = [self._contents(self._files[name]).classes for name in self.set_names]
        return tuple(dict.fromkeys(name for classes in found for name in classes.values()))

    def listed(self, image_set: str) -> list[Listed]:
        if image_set not in self._files:
            raise no_such_set(self._root, image_set, self._files)
        path = self._files[image_set]
        images = self._contents(path).images
        if not images:
            raise InputError(f"{path}: images: empty; expected at least one")
        return [Listed(name, path, f"{path}: image {shortened(image['file_name'])}") for name, image in images.items()]

    def read(self, listed: Listed) -> Annotation:
        contents = self._contents(listed.source)
        image = contents.images[listed.image]
        width, height = (_pixels(image, side, listed.place) for side in ("width", "height"))
        if not (width and height):
            width = height = 0
        found = contents.objects.get(image["id"], [])
        names, places = [], []
        boxes = np.zeros((len(found), 4))
        difficult, truncated = np.zeros(len(found), bool), np.zeros(len(found), bool)
        for i, (index, said) in enumerate(found):
            place = f": annotations[{index}]"
            where = f"{listed.source}{place}"
            name = contents.classes.get(_identity(said, "category_id", where))
            if name is None:
                raise InputError(f"{where}: category_id: {shortened(said['category_id'])} is not in categories")
            names.append(name)
            places.append(place)
            boxes[i] = voc_from_coco(_bbox(said, where))
            attributes = said.get("attributes")
            more = attributes if isinstance(attributes, dict) else {}
            difficult[i] = any(map(_is_set, (said.get("iscrowd"), said.get("ignore"), more.get("difficult"))))
            truncated[i] = _is_set(more.get("truncated"))
        return Annotation(
            listed.image, listed.source, width, height, tuple(names), boxes, difficult, truncated, tuple(places)
        )

    def picture(self, annotation: Annotation) -> Path:
        image_set = next(name for name, path in self._files.items() if path == annotation.path)
        file_name: str = self._contents(annotation.path).images[annotation.image]["file_name"]
        root = self._root
        folders = [annotation.path.parent, root / image_set, root / "images" / image_set, root / "images", root]
        folders.append(root / image_set / "images")
        for folder in dict.fromkeys(folders):
            if (folder / file_name).is_file():
                return folder / file_name
        tried = ", ".join(str(folder) for folder in dict.fromkeys(folders) if folder.is_dir())
        raise InputError(f"{annotation.path}: its image {shortened(file_name)} does not exist in {tried}")

    def digest(self, annotation: Annotation) -> str:
        return content_digest(annotation)

    def _contents(self, path: Path) -> _Contents:
        if path not in self._read:
            self._read[path] = _contents(_json(path), path)
        return self._read[path]


def find_coco_json(root: Path) -> CocoJson | None:
    """None where there is no file by a name that COCO's have; one in the root is looked into."""
    files: dict[str, Path] = {}
    for path in sorted((root / "annotations").glob("*.json")):
        if not is_hidden(path, root):
            files[path.stem.removeprefix(PREFIX)] = path
    if instances := {name: path for name, path in files.items() if path.stem.startswith(PREFIX)}:
        files = instances  # beside captions and key points
    for path in sorted([*root.glob(f"*/{ROBOFLOW}"), *root.glob(ROBOFLOW)]):
        files.setdefault(path.parent.name if path.parent != root else "all", path)
    if not files:
        files = {path.stem.removeprefix(PREFIX): path for path in sorted(root.glob("*.json")) if _is_coco(path)}
    return CocoJson(root, files) if files else None


def _is_coco(path: Path) -> bool:
    try:
        said = _json(path)
    except InputError:
        return False
    return isinstance(said, dict) and all(part in said for part in PARTS)


def _json(path: Path) -> Any:
    """What the file says, but for outlines, which fill memory; numbers that are not whole are text, digit by digit."""

    def without_outlines(entry: dict[str, Any]) -> dict[str, Any]:
        entry.pop("segmentation", None)
        return entry

    return read_json(path, parse_float=str, object_hook=without_outlines)


def _contents(said: Any, path: Path) -> _Contents:
    for part in PARTS:
        entries = said.get(part) if isinstance(said, dict) else None
        if not isinstance(entries, list):
            raise InputError(f"{path}: {part}: expected a list, as COCO's JSON has it")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InputError(f"{path}: {part}[{i}]: expected an object, got {shortened(entry)}")
    images: dict[str, dict[str, Any]] = {}
    ids = set()
    for i, image in enumerate(said["images"]):
        place = f"{path}: images[{i}]"
        file_name = image.get("file_name")
        if not isinstance(file_name, str) or not Path(file_name).stem or "\0" in file_name:
            raise InputError(f"{place}: file_name: expected a picture's name, got {shortened(file_name)}")
        if climbs(file_name):
            raise InputError(f"{place}: file_name: {shortened(file_name)} climbs out of the data set's folder")
        name = Path(file_name).with_suffix("").as_posix()
        identity = _identity(image, "id", place)
        if name in images or identity in ids:
            raise InputError(f"{place}: image {shortened(name)}, id {shortened(identity)}: named before")
        images[name] = image
        ids.add(identity)
    objects = defaultdict(list)
    for i, annotation in enumerate(said["annotations"]):
        place = f"{path}: annotations[{i}]"
        identity = _identity(annotation, "image_id", place)
        if identity not in ids:
            raise InputError(f"{place}: image_id: {shortened(identity)} is not in images")
        objects[identity].append((i, annotation))
    used = {str(annotation.get("category_id")) for annotation in said["annotations"]}
    classes: dict[int | str, str] = {}
    for i, category in enumerate(said["categories"]):
        place = f"{path}: categories[{i}]"
        if not isinstance(category.get("name"), str) or not category["name"].strip():
            raise InputError(f"{place}: name: expected the name of a class, got {shortened(category.get('name'))}")
        name, identity = category["name"].strip(), _identity(category, "id", place)
        if not is_a_line(name):
            raise InputError(f"{place}: name: {shortened(name)}: {EXPECTED_NAME}")
        for other in (known for known in classes if classes[known] == name):
            if {str(other), str(identity)} <= used:  # a group without objects may have the name of one of its classes
                raise InputError(f"{place}: name: {shortened(name)} is that of id {shortened(other)}, too")
        classes[identity] = name
    if not classes:
        raise InputError(f"{path}: categories: expected at least one")
    return _Contents(images, dict(objects), {key: classes[key] for key in sorted(classes, key=_order)})


def _order(identity: int | str) -> tuple[int, str]:
    return (identity, "") if isinstance(identity, int) else (0, identity)


def _identity(entry: dict[str, Any], key: str, place: str) -> int | str:
    found = entry.get(key)
    if not isinstance(found, int | str) or isinstance(found, bool):
        raise InputError(f"{place}: {key}: expected a number, got {shortened(found)}")
    return found


def _bbox(said: dict[str, Any], place: str) -> list[str]:
    """Its digits. Raises InputError where it is none."""
    box = said.get("bbox")
    numbers = [str(number) for number in box] if isinstance(box, list) else []
    if len(numbers) != 4 or not all(map(_is_number, numbers)) or any(float(number) < 0 for number in numbers[2:]):
        raise InputError(f"{place}: bbox: expected [x, y, width, height] in pixels, got {shortened(box)}")
    return numbers


def _is_number(text: str) -> bool:
    """Of JSON, and one that pixels may have: 1e-99999999 would be written out digit by digit."""
    return bool(NUMBER.fullmatch(text)) and abs(float(text)) < 1e6


def _is_set(flag: Any) -> bool:
    return str(flag).lower() not in ("none", "false", "0", "0.0", "")


def _pixels(image: dict[str, Any], side: str, place: str) -> int:
    text = str(image.get(side, 0))
    if not _is_number(text) or float(text) < 0 or not float(text).is_integer():
        raise InputError(f"{place}: {side}: expected a number of pixels, got {shortened(image[side])}")
    return int(float(text))
