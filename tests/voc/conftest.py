"""Devkits written by hand, and annotations in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_xml import HEIGHT, WIDTH, Objects, annotation_xml

from detpress.voc.annotation import Annotation


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
