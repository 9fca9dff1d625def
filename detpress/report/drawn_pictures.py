"""Pictures with boxes in a page that is one file: what its templates are given."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2
import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from detpress.report.pictures import COLOURS

PICTURE_SIDE = 480  # pixels, at most


def open_templates() -> jinja2.Environment:
    """What stands in a file, a class's name or a picture's is text to the page, whatever it holds."""
    loader = jinja2.PackageLoader("detpress.report", "template")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


@dataclass(frozen=True)
class Box:
    """Edges in pixels of the image; label: the class (or its number) and, of a detection, its score."""

    x: float
    y: float
    width: float
    height: float
    label: str
    colour: str


@dataclass(frozen=True)
class Picture:
    """One test image and the boxes on it: of the truth first, then of each row."""

    name: str
    width: int
    height: int
    data: str  # JPEG, base64
    panels: list[tuple[str, list[Box]]]


def boxes_of(edges: np.ndarray, names: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> list[Box]:
    return [
        Box(x0, y0, max(x1 - x0, 0), max(y1 - y0, 0), label, COLOURS[classes.index(name) % len(COLOURS)])
        for (x0, y0, x1, y1), name, label in zip(edges.round(1).tolist(), names, labels, strict=True)
    ]


def as_jpeg(pixels: Tensor) -> str:
    """pixels: uint8 (3, H, W) -> base64."""
    image = transforms.to_pil_image(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return base64.b64encode(data.getvalue()).decode()


def assets(*names: str) -> str:
    """Files of the folder template, one after the other."""
    folder = files("detpress.report").joinpath("template")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
