"""Residual blocks taken out of a network as a whole; what is behind them takes what they took.

3  Convolution(64)                              3  Convolution(64)
4  Convolution(3)       the block (3, 6)
5  Convolution(64)
6  Shortcut(source=3)   adds 3 and 5
7  Route((6, 0))                                4  Route((3, 0))     still called layers.7
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Shortcut, Yolo
from detpress.detector.network import Network, without_memory

Value = TypeVar("Value")


@dataclass(frozen=True)
class Block:
    """source: the layer whose map the block takes and adds to. shortcut: the layer that adds, the block's last."""

    source: int
    shortcut: int

    @property
    def inner(self) -> range:
        """The layers that compute what is added."""
        return range(self.source + 1, self.shortcut)


def residual_blocks(architecture: Architecture) -> list[Block]:
    """Those whose inner layers take nothing from before the block, and give nothing to layers behind it."""
    found = []
    for i, layer in enumerate(architecture.layers):
        if isinstance(layer, Shortcut) and layer.source < i - 1 and _gives_its_source(architecture, layer, i):
            block = Block(layer.source, i)
            inner = [(k, architecture.layers[k]) for k in block.inner]
            behind = architecture.layers[i:]
            if (
                all(min(one.inputs(k)) >= block.source and not isinstance(one, Yolo) for k, one in inner)
                and inner[0][1].takes_before
                and not any(source in block.inner for other in behind for source in other.refers_to)
            ):
                found.append(block)
    return found


def _gives_its_source(architecture: Architecture, shortcut: Shortcut, number: int) -> bool:
    """Whether the shortcut gives what its source does where it adds zeros."""
    maps = architecture.output_maps
    return shortcut.activation == "linear" and maps[number] == maps[shortcut.source]


@dataclass(frozen=True)
class Removal:
    """The layer list that is left. numbers: of the layers that are left, by their old ones."""

    architecture: Architecture
    numbers: Mapping[int, int]

    def renamed(self, named: Mapping[str, Value]) -> dict[str, Value]:
        """What belongs to the layers that are left, by its new names: `layers.7.norm.weight` -> value."""
        found = {}
        for name, value in named.items():
            layers, number, *rest = name.split(".")
            if int(number) in self.numbers:
                found[".".join([layers, str(self.numbers[int(number)]), *rest])] = value
        return found


def without_blocks(architecture: Architecture, blocks: Sequence[Block]) -> Removal:
    """blocks: of `residual_blocks`, none inside another. People's names of the other layers stay."""
    gone = {k for block in blocks for k in (*block.inner, block.shortcut)}
    left = [i for i in range(len(architecture.layers)) if i not in gone]
    numbers = {old: new for new, old in enumerate(left)}
    sources = {block.shortcut: block.source for block in blocks}

    def number(layer: int) -> int:
        while layer in sources:
            layer = sources[layer]
        return numbers[layer]

    layers, names = [], architecture.names
    for new, old in enumerate(left):
        layer = replace(architecture.layers[old], name=None if names[old] == f"layers.{new}" else names[old])
        layers.append(layer.referring_to([number(k) for k in layer.refers_to]))
    return Removal(replace(architecture, layers=tuple(layers)), numbers)


def remove_blocks(network: Network, blocks: Sequence[Block]) -> Network:
    """The network without these blocks: the same maps as where all that they add is zero."""
    removal = without_blocks(network.architecture, blocks)
    encodings = {removal.numbers[i]: encoding for i, encoding in network.encodings.items() if i in removal.numbers}
    with without_memory():
        smaller = Network(removal.architecture, encodings)
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    smaller.load_state_dict(removal.renamed(tensors), assign=True)
    return smaller.eval()
