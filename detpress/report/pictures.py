"""Pictures to look at: the same images with the truth and with each stage's boxes, side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms
from torchvision.utils import draw_bounding_boxes, make_grid

from detpress.detector.images import read_image
from detpress.errors import InputError
from detpress.report.fonts import Lettering, choose_lettering
from detpress.voc.annotation import Annotation
from detpress.voc.coordinates import edges_from_voc
from detpress.voc.devkit import Devkit
from detpress.voc.results import ClassDetections, read_results

PANEL_SIDE = 640  # pixels, at most, of an image within a picture
NOT_DRAWN = (OSError, ValueError, RuntimeError, MemoryError, InputError)  # what drawing a picture may raise
FONT_SIZE = 12  # pixels, of a font of the system; Pillow's own is drawn at 10
SHOWN_SCORE = 0.3  # detections below are not drawn
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000", "#000075", "#d6006c")


def draw_stage_pictures(
    devkit: Devkit,
    split: str,
    stages: Sequence[tuple[str, Path]],
    folder: Path,
    say: Callable[[str], None],
    count: int = 8,
) -> list[Path]:
    """Writes `count` images, spread evenly over the image set, as `folder`/<image>.jpg.

    stages: name of each stage and the folder of its `comp4_det_*` files.
    say: is told of a picture that cannot be drawn or written (those after it are), and of names that cannot be drawn.
    Each picture is a row: the truth first, then one panel a stage with the detections scored above 0.3.
    """
    annotations = devkit.image_set(split)
    chosen = annotations[:: max(1, len(annotations) // count)][:count]
    found = [(name, read_results(results, split, devkit.classes)) for name, results in stages]
    lettering = choose_lettering(devkit.classes)
    if lettering.numbered:
        say(f"  {lettering.legend()}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for annotation in chosen:
        path = folder / f"{annotation.image}.jpg"
        try:
            picture = _stages_side_by_side(devkit, annotation, found, lettering)
            path.parent.mkdir(parents=True, exist_ok=True)  # an image's name may hold folders
            transforms.to_pil_image(picture).save(path, quality=90)
        except NOT_DRAWN as error:  # nothing else hangs on it
            say(f"  {path.name} cannot be drawn or written: {error}")
        else:
            paths.append(path)
    return paths


def _stages_side_by_side(
    devkit: Devkit,
    annotation: Annotation,
    found: Sequence[tuple[str, dict[str, ClassDetections]]],
    lettering: Lettering,
) -> Tensor:
    image = read_image(devkit.image_path(annotation), annotation.size)
    boxes = torch.from_numpy(edges_from_voc(annotation.boxes))
    labels = [lettering.shown[name] for name in annotation.names]
    panels = [draw_boxes(image, boxes, annotation.names, devkit.classes, "truth", labels, lettering.font)]
    for stage, detections in found:
        boxes, names, scores = detections_of_image(detections, annotation)
        labels = [f"{lettering.shown[name]} {score:.2f}" for name, score in zip(names, scores, strict=True)]
        panels.append(draw_boxes(image, boxes, names, devkit.classes, stage, labels, lettering.font))
    grid: Tensor = make_grid(panels, nrow=len(panels), padding=4, pad_value=255)
    return grid


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    names: Sequence[str],
    classes: Sequence[str],
    title: str | None = None,
    labels: Sequence[str] | None = None,
    font: str | None = None,
) -> Tensor:
    """image: uint8 (3, H, W); boxes: (n, 4) edges in its pixels -> uint8 (3, H', W'), a small image enlarged and a
    large one shrunk to `PANEL_SIDE`, so that the labels are readable. Boxes whose edges are swapped are not drawn.

    font: the file of the font that the labels are drawn with, Pillow's own without.
    """
    height, width = image.shape[-2:]
    factor: float = max(1, round(320 / width))
    picture = image
    if max(height, width) * factor > PANEL_SIDE:
        factor = PANEL_SIDE / max(height, width)
        picture = transforms.resize(image, [max(1, round(side * factor)) for side in (height, width)])
    elif factor > 1:
        picture = image.repeat_interleave(int(factor), dim=1).repeat_interleave(int(factor), dim=2)
    drawn = [i for i, (left, top, right, bottom) in enumerate(boxes.tolist()) if left <= right and top <= bottom]
    if drawn:
        colours = [COLOURS[classes.index(names[i]) % len(COLOURS)] for i in drawn]
        picture = draw_bounding_boxes(
            picture,
            boxes[drawn] * factor,
            [(labels or names)[i] for i in drawn],
            colours,
            width=2,
            font=font,
            font_size=font and FONT_SIZE,
            label_colors="white",
            label_background_colors=colours,
            fill_labels=True,
        )
    if title:
        strip = torch.full((3, 16, picture.shape[-1]), 255, dtype=torch.uint8)
        strip = draw_bounding_boxes(strip, torch.tensor([[0, 0, 1, 1]]), [title], "black", width=1)
        picture = torch.cat([strip, picture], dim=1)
    return picture


def detections_of_image(
    detections: dict[str, ClassDetections], annotation: Annotation
) -> tuple[Tensor, list[str], list[float]]:
    """Boxes (n, 4) as edges, class names and scores of one image's detections scored above `SHOWN_SCORE`."""
    boxes, names, scores = [], [], []
    for name, found in detections.items():
        for image, score, box in zip(found.images, found.scores, found.boxes, strict=True):
            if image == annotation.image and score >= SHOWN_SCORE:
                boxes.append(box)
                names.append(name)
                scores.append(float(score))
    if not boxes:
        return torch.zeros(0, 4), [], []
    return torch.from_numpy(edges_from_voc(np.stack(boxes))), names, scores
