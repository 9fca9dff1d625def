"""One layer replaced by several, and all that names layers by their numbers.

    0  Convolution(64, 3)                                 0  Convolution(64, 3)
    1  Convolution(64, 3)      layer 1 replaced by two    1  Convolution(16, (3, 1))    called layers.1.0
    2  Convolution(64, 1)                                 2  Convolution(64, (1, 3))    called layers.1.1
    3  Shortcut(source=1)                                 3  Convolution(64, 1)         called layers.2
                                                          4  Shortcut(source=2)         called layers.3

Tensors are called by numbers, as they always are: `layers.3.convolution.weight` of the new network was
`layers.2.convolution.weight`. People's names stay, so that patterns in options and rows in reports mean what they did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from detpress.detector.architecture import Architecture
from detpress.detector.layer import Layer

Value = TypeVar("Value")


@dataclass(frozen=True)
class Replacement:
    """The new layer list. replaced: number of the layer that was replaced, added: by how many more than one."""

    architecture: Architecture
    replaced: int
    added: int

    def number(self, layer: int) -> int:
        """Where an old layer is now; of the replaced one, the last of those that stand for it."""
        return layer if layer < self.replaced else layer + self.added

    def renamed(self, named: Mapping[str, Value]) -> dict[str, Value]:
        """What belongs to the other layers, by its new names: tensors or masks, `layers.3.norm.weight` -> value."""
        found = {}
        for name, value in named.items():
            layers, number, *rest = name.split(".")
            if int(number) != self.replaced:
                found[".".join([layers, str(self.number(int(number))), *rest])] = value
        return found


def replace_layer(architecture: Architecture, index: int, layers: Sequence[Layer]) -> Replacement:
    """Layer `index` replaced by `layers`, at least one, each of which takes what the one before it gives.

    What they refer to, besides that, they call by its new number. Raises InputError where they do not fit in.
    """
    added = len(layers) - 1
    names = architecture.names

    def number(layer: int) -> int:
        return layer if layer < index else layer + added

    own = names[index]
    new = [replace(layer, name=f"{own}.{k}" if added else own) for k, layer in enumerate(layers)]
    after = [
        replace(layer.referring_to([number(k) for k in layer.refers_to]), name=names[i])
        for i, layer in enumerate(architecture.layers[index + 1 :], start=index + 1)
    ]
    listed = [*architecture.layers[:index], *new, *after]
    unnamed = tuple(
        replace(layer, name=None) if layer.name == f"layers.{i}" else layer for i, layer in enumerate(listed)
    )
    return Replacement(replace(architecture, layers=unnamed), index, added)
