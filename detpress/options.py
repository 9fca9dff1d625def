"""The base of everything that a recipe may set."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Options(BaseModel):
    """Base of options: unknown keys refused, no silent conversion, defaults checked too."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)

    def is_default(self, option: str) -> bool:
        """Whether the recipe leaves the option out."""
        return option not in self.model_fields_set


class NoOptions(Options):
    """Nothing to choose."""


class BundleName(str):
    """An option that names a bundle: a shipped one such as `builtin:digits`, or its folder.

    By this type a bundle is known among options, at any depth: a relative folder starts at the recipe's, what the
    bundle holds enters the stage's key, and the plugin may load it.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_text = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(), serialization=as_text)


def bundles_in(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where options, or a part of them, name bundles, and which."""
    if isinstance(value, BundleName):
        yield place, str(value)
    parts: Any = ()
    if isinstance(value, Options):
        parts = value
    elif isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, part in parts:
        yield from bundles_in(part, (*place, key))
