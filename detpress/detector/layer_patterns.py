"""Layers by name pattern, as plugins' options give them."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from detpress.errors import InputError, nearest

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture


def matching_layers(patterns: Sequence[str], names: Iterable[str], option: str) -> list[str]:
    """The names that one of the patterns (`layers.4`, `layers.1?`, `*`) matches, as a whole or but for what was added
    where a layer was replaced by several: `layers.4` matches `layers.4.0`, too.

    Raises InputError, naming the option, for a pattern that matches nothing.
    """
    known = list(names)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in known):
            raise InputError(f"{option}: '{pattern}' matches no layer; {nearest(pattern, known)}")
    return still_matching(patterns, known)


def matching_convolutions(patterns: Sequence[str], architecture: "Architecture", option: str) -> set[int]:
    """Layer numbers of the convolutions that one of the patterns matches. Raises as `matching_layers` does."""
    from detpress.detector.architecture import Convolution  # imports PyTorch

    names = {architecture.names[i]: i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
    return {names[name] for name in matching_layers(patterns, names, option)}


def still_matching(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The same where layers may have been taken out since the patterns were checked: one may match nothing."""
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def spelled(names: Iterable[str]) -> str:
    """Names in a line, those with numbers in a row as a range: `layers.0-6, 9`."""
    runs: list[tuple[str, int, int]] = []  # what is before the number, the first number, the last
    for name in names:
        before, dot, number = name.rpartition(".")
        if not number.isdecimal():
            runs.append((name, -1, -1))
        elif runs and runs[-1][0] == before + dot and runs[-1][2] == int(number) - 1:
            runs[-1] = (before + dot, runs[-1][1], int(number))
        else:
            runs.append((before + dot, int(number), int(number)))
    parts = []
    for (before, first, last), (said, _, _) in zip(runs, [("", -1, -1), *runs], strict=False):
        numbers = "" if first < 0 else f"{first}" if first == last else f"{first}-{last}"
        parts.append(numbers if numbers and before == said else before + numbers)
    return ", ".join(parts)


def _matches(name: str, pattern: str) -> bool:
    if fnmatchcase(name, pattern):
        return True
    replaced = name.rpartition(".")[0]
    return "." in replaced and _matches(replaced, pattern)
