"""Writes a data set in another layout, from which the same annotations are read, bit for bit.

What a layout cannot say is told, not dropped in silence: YOLO's text has no word for `difficult` and `truncated`,
Pascal VOC no list of classes, which are those of its objects by their names.
Pictures are copied as they are. Outlines and tools' additions are not read, and so not written.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args
from xml.sax.saxutils import escape

import yaml

from detpress.errors import InputError, shortened
from detpress.files.folders import put_in_place
from detpress.files.pictures import SUFFIXES, picture_size, upright_size
from detpress.progress import Progress
from detpress.voc.annotation import Annotation
from detpress.voc.devkit import Devkit
from detpress.voc.exact import coco_from_voc, yolo_from_voc
from detpress.voc.layout import climbs, content_digest, is_a_file_name
from detpress.voc.yolo import LARGEST, NO_SETS

Target = Literal["voc", "yolo", "coco"]
TARGETS: tuple[Target, ...] = get_args(Target)
Sets = Mapping[str, Sequence[Annotation]]


def convert(devkit: Devkit, target: Target, folder: Path, progress: Progress | None = None) -> list[str]:
    """Writes all image sets into `folder`, which must be empty or not there; returns what the layout cannot say.

    progress: is told which image sets are read, and how many pictures are copied.
    Raises InputError, before anything is written, for what cannot be read, two images of one name, an image set that no
    file can be named after, and what the layout cannot hold at all.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: not empty; expected a folder to be made")
    names = devkit.image_set_names
    for name in names:
        if not is_a_file_name(name):
            raise InputError(f"{devkit.root}: image set {shortened(name)}: expected a plain name, such as train")
    sets: dict[str, list[Annotation]] = {}
    for name in names:
        sets[name] = [_sized(devkit, annotation) for annotation in devkit.image_set(name)]
        if progress:
            progress("image sets read", len(sets), len(names))
    every: dict[str, Annotation] = {}
    for annotation in (annotation for found in sets.values() for annotation in found):
        known = every.setdefault(annotation.image, annotation)
        if known.key != annotation.key and not _same(devkit, known, annotation):
            raise InputError(f"{annotation.path}: image {shortened(annotation.image)} is in {known.path}, too")
        if climbs(annotation.image):
            raise InputError(f"{annotation.path}: {shortened(annotation.image)} climbs out of a folder")
    pictures = {image: devkit.image_path(annotation) for image, annotation in every.items()}
    for picture in pictures.values():
        if picture.suffix.lower() not in SUFFIXES:
            raise InputError(f"{picture}: other layouts find a picture by its suffix; expected {', '.join(SUFFIXES)}")
    writers: dict[Target, Callable[..., dict[Path, str]]] = {"voc": _as_voc, "yolo": _as_yolo, "coco": _as_coco}
    texts = writers[target](sets, every, devkit.classes, pictures)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary) / folder.name
        for path, text in texts.items():
            (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / path).write_text(text, encoding="utf-8")
        for i, (image, picture) in enumerate(pictures.items()):
            copy = unfinished / _picture_path(target, image, picture)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, copy)
            if progress:
                progress("pictures copied", i + 1, len(pictures))
        put_in_place(unfinished, folder)
    strays = devkit.stray_texts()
    notes = [f"{len(strays)} texts without a picture are left out, such as {strays[0]}"] if strays else []
    if target == "voc":
        notes += _other_classes(devkit, every.values())
    return notes + (_unsaid(every.values()) if target == "yolo" else [])


def _sized(devkit: Devkit, annotation: Annotation) -> Annotation:
    return annotation if annotation.size else annotation.with_size(*picture_size(devkit.image_path(annotation)))


def _same(devkit: Devkit, one: Annotation, other: Annotation) -> bool:
    """Whether two files, such as COCO's of two image sets, say the same of the same picture."""
    same_picture = devkit.image_path(one) == devkit.image_path(other)
    return same_picture and content_digest(one) == content_digest(other)


def _picture_path(target: Target, image: str, picture: Path) -> Path:
    """Where the picture is written; not by `with_suffix`, since an image's name may hold a dot."""
    return Path("JPEGImages" if target == "voc" else "images") / f"{image}{picture.suffix}"


def _other_classes(devkit: Devkit, annotations: Iterable[Annotation]) -> list[str]:
    met = sorted({name for annotation in annotations for name in annotation.names})
    if list(devkit.classes) == met:
        return []
    kept = f"data.classes: [{', '.join(devkit.classes)}]"
    return [f"Pascal VOC has no list of classes, so they are {', '.join(met)}; a recipe gives them back: {kept}"]


def _unsaid(annotations: Iterable[Annotation]) -> list[str]:
    found = list(annotations)
    counts = {
        "difficult": sum(int(annotation.difficult.sum()) for annotation in found),
        "truncated": sum(int(annotation.truncated.sum()) for annotation in found),
    }
    return [
        f"{count} objects are marked {what}, which YOLO's text cannot say: they are written as any others"
        for what, count in counts.items()
        if count
    ]


def _as_voc(
    sets: Sets, every: Mapping[str, Annotation], classes: Sequence[str], pictures: Mapping[str, Path]
) -> dict[Path, str]:
    texts = {Path("ImageSets/Main") / f"{name}.txt": _lines(a.image for a in found) for name, found in sets.items()}
    for image, annotation in every.items():
        texts[Path("Annotations") / f"{image}.xml"] = _xml(annotation, f"{image}{pictures[image].suffix}")
    return texts


def _xml(annotation: Annotation, file_name: str) -> str:
    lines = [
        "<annotation>",
        f"  <filename>{escape(file_name)}</filename>",
        f"  <size><width>{annotation.width}</width><height>{annotation.height}</height><depth>3</depth></size>",
    ]
    rows = zip(annotation.names, annotation.boxes.tolist(), annotation.difficult, annotation.truncated, strict=True)
    for name, box, difficult, truncated in rows:
        sides = (f"<{side}>{_short(v)}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        lines += [
            "  <object>",
            f"    <name>{escape(name)}</name>",
            f"    <truncated>{int(truncated)}</truncated>",
            f"    <difficult>{int(difficult)}</difficult>",
            f"    <bndbox>{''.join(sides)}</bndbox>",
            "  </object>",
        ]
    return _lines([*lines, "</annotation>"])


def _short(number: float) -> str:
    """Read back as the same bits."""
    return str(int(number)) if number.is_integer() else repr(number)


def _as_yolo(
    sets: Sets, every: Mapping[str, Annotation], classes: Sequence[str], pictures: Mapping[str, Path]
) -> dict[Path, str]:
    """Image sets as lists, since sets may share images."""
    numbers = {name: number for number, name in enumerate(classes)}
    places = {image: _picture_path("yolo", image, picture) for image, picture in pictures.items()}
    texts = {
        Path(f"{name}.txt"): _lines(f"./{places[a.image].as_posix()}" for a in found) for name, found in sets.items()
    }
    if taken := sets.keys() & set(NO_SETS):
        raise InputError(f"an image set called {min(taken)}, which in YOLO's data.yaml is a key of another kind")
    described = {"path": ".", **{name: f"{name}.txt" for name in sets}, "names": list(classes)}
    texts[Path("data.yaml")] = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
    for image, annotation in every.items():
        if annotation.size != (upright := upright_size(pictures[image])):
            raise InputError(
                f"{pictures[image]}: annotated as {annotation.width}x{annotation.height}, but people see it as "
                f"{upright[0]}x{upright[1]}, of which YOLO's fractions are: take its EXIF orientation away"
            )
        rows = []
        for i, (name, box) in enumerate(zip(annotation.names, annotation.boxes.tolist(), strict=True)):
            row = yolo_from_voc(box, annotation.width, annotation.height)
            least = [1 - LARGEST, 1 - LARGEST, 0, 0]
            if any(not low <= float(number) <= LARGEST for low, number in zip(least, row, strict=True)):
                raise InputError(f"{annotation.place(i)}: the box {box} is no box within or near its picture")
            rows.append(f"{numbers[name]} {' '.join(row)}")
        folders = Path(image).parts[:-1]
        if "images" in folders:
            raise InputError(f"{annotation.path}: a folder called `images` in the name {shortened(image)}")
        texts[Path("labels") / f"{image}.txt"] = _lines(rows)
    return texts


def _as_coco(
    sets: Sets, every: Mapping[str, Annotation], classes: Sequence[str], pictures: Mapping[str, Path]
) -> dict[Path, str]:
    """Ids are the same in all files; difficult objects are crowds, which other tools pass over, too."""
    ids = {image: number for number, image in enumerate(every, 1)}
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    numbers = {category["name"]: category["id"] for category in categories}
    texts, identity = {}, 0
    for name, found in sets.items():
        images, objects = [], []
        for annotation in found:
            file_name = f"{annotation.image}{pictures[annotation.image].suffix}"
            size = {"width": annotation.width, "height": annotation.height}
            images.append(json.dumps({"id": ids[annotation.image], "file_name": file_name, **size}))
            for i, label in enumerate(annotation.names):
                identity += 1
                said = {
                    "id": identity,
                    "image_id": ids[annotation.image],
                    "category_id": numbers[label],
                    "iscrowd": int(annotation.difficult[i]),
                    "attributes": {"truncated": bool(annotation.truncated[i])},
                }
                box = coco_from_voc(annotation.boxes[i].tolist())
                if min(map(float, box[2:])) < 0:
                    raise InputError(
                        f"{annotation.place(i)}: the box {annotation.boxes[i].tolist()} ends before it starts"
                    )
                area = float(box[2]) * float(box[3])
                objects.append(f'{json.dumps(said)[:-1]}, "area": {area!r}, "bbox": [{", ".join(box)}]}}')
        parts = {"images": images, "annotations": objects, "categories": list(map(json.dumps, categories))}
        joined = ",\n".join(f'"{part}": [\n{_joined(entries)}\n]' for part, entries in parts.items())
        texts[Path("annotations") / f"instances_{name}.json"] = f"{{\n{joined}\n}}\n"
    return texts


def _joined(entries: Sequence[str]) -> str:
    return ",\n".join(entries)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
