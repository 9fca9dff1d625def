"""What each stage did to each convolution: filters, zeros and bits, read off the bundles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Convolution
from detpress.encodings.bundle import load_bundle
from detpress.encodings.packed import PackedConvolution
from detpress.encodings.simulated import SimulatedConvolution


@dataclass(frozen=True)
class LayerState:
    """zeros: share of the weights that are zero; bits: of one stored weight."""

    filters: int
    zeros: float
    bits: int


def layer_states(bundle: Path) -> dict[str, LayerState]:
    """The convolutions of a bundle by name, such as `layers.4`."""
    model = load_bundle(bundle)
    found = {}
    for i, layer in enumerate(model.architecture.layers):
        if isinstance(layer, Convolution):
            weight, bits = _weight(model.network.get_submodule(f"layers.{i}.convolution"))
            zeros = 1 - int(torch.count_nonzero(weight)) / weight.numel()
            found[f"layers.{i}"] = LayerState(layer.filters, zeros, bits)
    return found


def _weight(convolution: nn.Module) -> tuple[Tensor, int]:
    """The values that the weights stand for, and the bits of one as `storage_bytes` counts them."""
    match convolution:
        case SimulatedConvolution():
            return convolution.float_weight, convolution.simulated.weight_bits
        case PackedConvolution():
            return convolution.weight, convolution.packing.bits
        case _:  # int8 codes are symmetric: 0 stands for 0
            weight: Tensor = convolution.state_dict()["weight"]
            return weight, 8 * weight.element_size()


def layer_rows(states: Sequence[dict[str, LayerState]]) -> list[tuple[str, list[LayerState | None]]]:
    """One row a layer that any of the stages has: its state after each stage."""
    names = dict.fromkeys(name for of_stage in states for name in of_stage)
    return [(name, [of_stage.get(name) for of_stage in states]) for name in names]
