"""Which filters must be pruned together, read off the layer list.

A shortcut adds two maps channel by channel, so the convolutions behind both must lose the same channels. In

    0  Convolution(64)      <- with 0
    1  Convolution(32)
    2  Convolution(64)      <- with 0
    3  Shortcut(source=0)   adds 0 and 2
    4  Convolution(32)
    5  Convolution(64)      <- with 0
    6  Shortcut(source=3)   adds (0 + 2) and 5

the convolutions 0, 2 and 5 form one group; 1 and 4 are groups of their own.
"""

from detpress.detector.architecture import Architecture, Convolution, Route, Shortcut
from detpress.errors import InputError


def coupled_convolutions(architecture: Architecture) -> list[tuple[int, ...]]:
    """Groups of convolutions whose filters are pruned alike, each sorted, in the order of their first members.

    Raises InputError where a shortcut adds maps that were concatenated in different ways.
    """
    parent = list(range(len(architecture.layers)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    behind: list[tuple[int, ...]] = []  # for each layer, the convolutions that its channels come from, in order
    for i, layer in enumerate(architecture.layers):
        before = behind[i - 1] if i else ()
        match layer:
            case Convolution():
                behind.append((i,))
            case Route(sources=sources):
                behind.append(tuple(part for source in sources for part in behind[source]))
            case Shortcut(source=source):
                if len(behind[source]) != len(before):
                    raise InputError(f"layer {i}: a shortcut between differently concatenated maps cannot be pruned")
                for one, other in zip(behind[source], before, strict=True):
                    low, high = sorted((root(one), root(other)))
                    parent[high] = low
                behind.append(before)
            case _:
                behind.append(before)
    groups: dict[int, list[int]] = {}
    for i, layer in enumerate(architecture.layers):
        if isinstance(layer, Convolution):
            groups.setdefault(root(i), []).append(i)
    return [tuple(group) for group in groups.values()]
