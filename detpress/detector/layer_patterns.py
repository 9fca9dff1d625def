"""Layers by name pattern, as plugins' options give them."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from detpress.errors import InputError, nearest


def matching_layers(patterns: Sequence[str], names: Iterable[str], option: str) -> list[str]:
    """The names that one of the patterns (`layers.4`, `layers.1?`, `*`) matches.

    Raises InputError, naming the option, for a pattern that matches nothing.
    """
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(f"{option}: '{pattern}' matches no layer; {nearest(pattern, known)}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
