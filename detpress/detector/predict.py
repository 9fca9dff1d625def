"""Runs a detector over images, whatever executes it, and hands the boxes to the evaluator."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.boxes import OF_DARKNET, Detections, Suppression, decode, suppress
from detpress.detector.images import Placement, network_input, place_image, read_image
from detpress.progress import Progress
from detpress.voc.annotation import Annotation
from detpress.voc.coordinates import voc_from_edges
from detpress.voc.devkit import Devkit
from detpress.voc.results import ClassDetections

Run = Callable[[Tensor], Sequence[Tensor]]  # images float32 (N, 3, H, W) in [0, 1] -> raw maps
Size = tuple[int, int] | None  # width and height in pixels
BATCH = 16  # images; the same for every form and runtime, so that their figures compare


def predict(
    run: Run,
    architecture: Architecture,
    paths: Sequence[Path],
    progress: Progress | None = None,
    sizes: Sequence[Size] | None = None,
    rules: Suppression = OF_DARKNET,
) -> Iterator[Detections]:
    """What `run` finds in each image, in pixels of the image. The next images are read while a batch is computed.

    sizes: of each image, as its annotation says; see `read_image`. rules: which boxes are detections.
    """
    pictures = list(zip(paths, sizes or [None] * len(paths), strict=True))

    def load(picture: tuple[Path, Size]) -> tuple[Tensor, Placement, int, int]:
        image = read_image(*picture)
        return *place_image(image, architecture.input_size, architecture.resize), *image.shape[-2:]

    with ThreadPool(2) as pool:
        chunks = [pictures[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        ahead = [pool.apply_async(load, (picture,)) for picture in pictures[:BATCH]]
        for i in range(len(chunks)):
            loaded = [waiting.get() for waiting in ahead]
            ahead = [pool.apply_async(load, (picture,)) for picture in (chunks[i + 1] if i + 1 < len(chunks) else [])]
            images = network_input(torch.stack([square for square, *_ in loaded]))
            with torch.inference_mode():  # not around the yield: it would hold for the caller, too
                found = suppress(*decode(run(images), architecture), rules)
            for detections, (_, placement, height, width) in zip(found, loaded, strict=True):
                yield detections.to_image(placement, height, width)
            if progress:
                progress("images scored", min((i + 1) * BATCH, len(paths)), len(paths))


def predict_image_set(
    run: Run,
    architecture: Architecture,
    devkit: Devkit,
    split: str,
    progress: Progress | None = None,
    rules: Suppression = OF_DARKNET,
) -> dict[str, ClassDetections]:
    """What `run` finds in the images of an image set, by class, as the evaluator takes it."""
    annotations = devkit.image_set(split)
    paths = [devkit.image_path(annotation) for annotation in annotations]
    sizes = [annotation.size for annotation in annotations]
    found = list(predict(run, architecture, paths, progress, sizes, rules))
    return collect(found, annotations, architecture.classes)


def full_images(detections: Mapping[str, ClassDetections], max_detections: int) -> int:
    """In how many images as many objects were found as an image may have, and perhaps more would have been."""
    counts = Counter(image for found in detections.values() for image in found.images)
    return sum(count >= max_detections for count in counts.values())


def collect(
    detections: Sequence[Detections], annotations: Sequence[Annotation], classes: Sequence[str]
) -> dict[str, ClassDetections]:
    """Detections by image -> detections by class, in VOC coordinates."""
    images = np.repeat([annotation.image for annotation in annotations], [len(found.labels) for found in detections])
    labels = torch.cat([found.labels for found in detections]).cpu().numpy()
    scores = torch.cat([found.scores for found in detections]).cpu().numpy().astype(np.float64)
    boxes = voc_from_edges(torch.cat([found.boxes for found in detections]).cpu().numpy().astype(np.float64))
    return {
        name: ClassDetections(tuple(images[labels == i].tolist()), scores[labels == i], boxes[labels == i])
        for i, name in enumerate(classes)
    }
