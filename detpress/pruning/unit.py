"""What is masked as a whole: a single weight, or a filter with those that it is added to."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from detpress.detector.form import Form
from detpress.detector.model import Model, apply_masks
from detpress.errors import InputError
from detpress.pruning.filter_groups import (
    filter_magnitudes,
    kept_filters,
    masks_of_groups,
    on_one_scale,
    prunable_groups,
)
from detpress.pruning.single_weights import kept_weights, weight_magnitudes


class Unit(ABC):
    """A kind of thing to prune. Entries and scores are those of `detpress.pruning.selection`."""

    at_least: ClassVar[int]  # so many of each entry stay

    @abstractmethod
    def kept(self, model: Model) -> dict[Any, Tensor]:
        """Entry -> bool: what the model's masks do not hold at zero. Heads are no entries."""

    @abstractmethod
    def magnitudes(self, model: Model, kept: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """Entry -> scores that may be compared with those of other entries."""

    @abstractmethod
    def masks(self, model: Model, kept: Mapping[Any, Tensor]) -> dict[str, Tensor]:
        """Parameter name -> bool of its shape, of parameters that lose something."""


class SingleWeights(Unit):
    """Scored by |w|. A layer may lose all of them, by a global ranking."""

    at_least = 0

    def kept(self, model: Model) -> dict[Any, Tensor]:
        return kept_weights(model.network, model.architecture, model.masks)

    def magnitudes(self, model: Model, kept: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        return weight_magnitudes(model.network, model.architecture)

    def masks(self, model: Model, kept: Mapping[Any, Tensor]) -> dict[str, Tensor]:
        return {name: mask for name, mask in kept.items() if not mask.all()}


class Filters(Unit):
    """Scored by the mean |w|, divided by the mean of its group: layers of few inputs have larger weights."""

    at_least = 1

    def kept(self, model: Model) -> dict[Any, Tensor]:
        return kept_filters(model.architecture, model.masks)

    def magnitudes(self, model: Model, kept: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        return on_one_scale(filter_magnitudes(model.network, prunable_groups(model.architecture)), kept)

    def masks(self, model: Model, kept: Mapping[Any, Tensor]) -> dict[str, Tensor]:
        return masks_of_groups(model.network, model.architecture, kept)


UNITS: dict[str, Unit] = {"weights": SingleWeights(), "filters": Filters()}


def masked_model(model: Model, unit: Unit, kept: Mapping[Any, Tensor]) -> Model:
    """A copy of the model that holds at zero what is not kept, and what it held before.

    Raises InputError where that is nothing more.
    """
    masks = dict(model.masks)
    for name, mask in unit.masks(model, kept).items():
        masks[name] = mask & masks.get(name, mask)
    if sum(int((~mask).sum()) for mask in masks.values()) == sum(int((~mask).sum()) for mask in model.masks.values()):
        raise InputError("nothing would be masked: at this share no layer has a whole weight, or filter, to lose")
    network = copy.deepcopy(model.network)
    apply_masks(network, masks)
    return model.with_network(network, Form.MASKED, masks)


def even_scores(kept: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """Scores by which every entry loses the same share, spread over its filters: for plans, which know no weights."""
    scores = {}
    for entry, mask in kept.items():
        places = torch.arange(mask.numel(), dtype=torch.float64).view(-1, len(mask)).T.reshape(mask.shape)
        scores[entry] = (places + 0.5) / mask.numel()
    return scores


def masked_layers(model: Model) -> tuple[str, ...]:
    """Names of the layers whose convolution is masked, in part or as a whole."""
    names = model.architecture.names
    return tuple(names[i] for i in range(len(names)) if f"layers.{i}.convolution.weight" in model.masks)
