"""What each stage did to each convolution: filters, zeros and bits, read off the bundles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detpress.detector.folding import stored_weight
from detpress.encodings.bundle import load_bundle


@dataclass(frozen=True)
class LayerState:
    """zeros: share of the weights that are zero; bits: of one stored weight."""

    filters: int
    zeros: float
    bits: int


def layer_states(bundle: Path) -> dict[str, LayerState]:
    """The convolutions of a bundle by name, such as `layers.4`."""
    network = load_bundle(bundle).own_network
    found = {}
    for i, encoding in network.encodings.items():
        weight = stored_weight(network, i)
        zeros = 1 - int(torch.count_nonzero(weight)) / weight.numel()
        found[network.architecture.names[i]] = LayerState(len(weight), zeros, encoding.stored_bits)
    return found


def layer_rows(states: Sequence[dict[str, LayerState]]) -> list[tuple[str, list[LayerState | None]]]:
    """One row a layer that any of the stages has: its state after each stage."""
    names = dict.fromkeys(name for of_stage in states for name in of_stage)
    return [(name, [of_stage.get(name) for of_stage in states]) for name in names]
