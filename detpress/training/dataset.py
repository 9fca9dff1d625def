"""Training images, brought to the network's size once, with their objects."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detpress.detector.architecture import Architecture
from detpress.detector.images import place_image, read_image
from detpress.training.loss import Targets
from detpress.voc.annotation import Annotation
from detpress.voc.coordinates import edges_from_voc
from detpress.voc.devkit import Devkit

VERSION = 1  # raised when the same files give other objects or their boxes: it enters every stage's key
CACHE_BYTES = 2 * 1024**3  # a set whose squares need no more, in all processes, is kept in memory

Sample = tuple[Tensor, Tensor, Tensor, Tensor]  # square, labels, boxes, difficult


class TrainingSet(Dataset[Sample]):
    """The images of an image set as uint8 (3, H, W), each with labels int64 (n,), boxes float32 (n, 4) and
    difficult bool (n,); boxes are edges in pixels of the input. Degenerate boxes are left out.

    processes: that read it, each of which keeps what it has read.
    """

    def __init__(self, devkit: Devkit, split: str, architecture: Architecture, processes: int = 1) -> None:
        self._annotations = devkit.image_set(split)
        self._devkit = devkit
        self.architecture = architecture
        needed = processes * len(self._annotations) * 3 * math.prod(architecture.input_size)
        self._cache: dict[int, Sample] | None = {} if needed <= CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self._annotations)

    def __getitem__(self, index: int) -> Sample:
        if self._cache is None:
            return self._read(self._annotations[index])
        if index not in self._cache:
            self._cache[index] = self._read(self._annotations[index])
        return self._cache[index]

    def _read(self, annotation: Annotation) -> Sample:
        image = read_image(self._devkit.image_path(annotation), annotation.size)
        annotation = annotation.with_size(image.shape[2], image.shape[1])
        square, placement = place_image(image, self.architecture.input_size, self.architecture.resize)
        usable = ~annotation.degenerate
        names = [name for name, use in zip(annotation.names, usable, strict=True) if use]
        limit = np.array([annotation.width, annotation.height] * 2)
        edges = edges_from_voc(annotation.boxes[usable]).clip(0, limit)
        boxes = placement.to_input(torch.from_numpy(edges).float())
        labels = torch.tensor([self.architecture.classes.index(name) for name in names], dtype=torch.int64)
        return square, labels, boxes, torch.from_numpy(annotation.difficult[usable])


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Targets]:
    """Images uint8 (N, 3, H, W) and the objects of all of them."""
    squares, labels, boxes, difficult = zip(*samples, strict=True)
    image = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor([len(label) for label in labels]))
    return torch.stack(squares), Targets(image, torch.cat(labels), torch.cat(boxes), torch.cat(difficult))
