"""What each stage did to each convolution: filters, zeros and bits, read off the bundles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detpress.bundle import load_bundle
from detpress.detector.architecture import Convolution


@dataclass(frozen=True)
class LayerState:
    """zeros: share of the weights that are zero; bits: of one stored weight."""

    filters: int
    zeros: float
    bits: int


def layer_states(bundle: Path) -> dict[str, LayerState]:
    """The convolutions of a bundle by name, such as `layers.4`."""
    model = load_bundle(bundle)
    tensors = model.network.state_dict()
    found = {}
    for i, layer in enumerate(model.architecture.layers):
        weight = tensors.get(f"layers.{i}.convolution.weight")
        if isinstance(layer, Convolution) and weight is not None:
            zeros = 1 - float(torch.count_nonzero(weight)) / weight.numel()
            found[f"layers.{i}"] = LayerState(layer.filters, zeros, 8 * weight.element_size())
    return found


def layer_rows(states: Sequence[dict[str, LayerState]]) -> list[tuple[str, list[LayerState | None]]]:
    """One row a layer that any of the stages has: its state after each stage."""
    names = dict.fromkeys(name for of_stage in states for name in of_stage)
    return [(name, [of_stage.get(name) for of_stage in states]) for name in names]
