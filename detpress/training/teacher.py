"""A network that is learnt from."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from detpress.detector.model import Model
from detpress.training.objective import outputs_of


class Teacher:
    """Answers in eval mode and without gradients, wherever the images are; it is no module, and in no checkpoint.

    layers: names of its layers, such as `layers.80`, that are shown beside the raw maps.
    """

    def __init__(self, model: Model, layers: Sequence[str] = ()) -> None:
        self.architecture = model.architecture
        self.network = copy.deepcopy(model.network).eval().requires_grad_(False)
        self.layers = layers

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """images: float32 (N, 3, S, S) in [0, 1]. Returns the raw maps, and what `layers` gave, by name."""
        with outputs_of(self.network, self.layers) as outputs:
            maps = tuple(self.network.to(images.device)(images))
        return maps, outputs
