"""Devkits written by hand, and annotations in memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detpress.voc.annotation import Annotation

WIDTH, HEIGHT = 100, 80
Objects = Sequence[tuple[str, Sequence[float], bool]]  # class, VOC box, difficult


def annotation_xml(objects: Objects, width: object = WIDTH, height: object = HEIGHT) -> str:
    parts = [
        f"  <object>\n    <name>{name}</name>\n    <difficult>{int(difficult)}</difficult>\n    <bndbox>"
        + "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox>\n  </object>\n"
        for name, box, difficult in objects
    ]
    size = f"  <size><width>{width}</width><height>{height}</height></size>\n"
    return f"<annotation>\n{size}{''.join(parts)}</annotation>\n"


@pytest.fixture
def write_devkit() -> Callable[[Path, Mapping[str, Objects], str], Path]:
    """Writes a folder with an annotation and a picture for each image, and one image set that names them all."""

    def write(root: Path, images: Mapping[str, Objects], image_set: str = "test") -> Path:
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for image, objects in images.items():
            (root / f"Annotations/{image}.xml").write_text(annotation_xml(objects))
            Image.new("RGB", (WIDTH, HEIGHT), (len(objects), 0, 0)).save(root / f"JPEGImages/{image}.jpg")
        (root / f"ImageSets/Main/{image_set}.txt").write_text("".join(f"{image}\n" for image in images))
        return root

    return write


@pytest.fixture(scope="session")
def annotate() -> Callable[[str, Objects], Annotation]:
    """An annotation that is in no file."""

    def make(image: str, objects: Objects) -> Annotation:
        boxes = np.array([box for _, box, _ in objects], float).reshape(-1, 4)
        difficult = np.array([flag for _, _, flag in objects], bool)
        names = tuple(name for name, _, _ in objects)
        path = Path(f"{image}.xml")
        return Annotation(image, path, WIDTH, HEIGHT, names, boxes, difficult, np.zeros(len(names), bool))

    return make
