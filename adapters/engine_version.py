"""Bridges that reach into an engine hold for one version of it: with another they say so instead of going astray."""

from detpress.doors import version
from detpress.errors import InputError


def expect_version(engine: str, expected: str, because: str) -> None:
    """Raises InputError where another version of the engine's distribution is installed."""
    found = version(engine)
    if found != expected:
        raise InputError(f"{engine} {found} is installed, but {because}: expected {engine} {expected}")
