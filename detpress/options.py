"""The base of everything that a recipe may set."""

from collections.abc import Iterator, Mapping
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


STAGE = "stage:"  # and a number, from 0 for the model that a chain begins with


class BundleName(str):
    """An option that names a bundle: a shipped one such as `builtin:digits`, its folder, or what an earlier stage
    of the same chain left, such as `stage:1`.

    By this type a bundle is known among options, at any depth: a relative folder starts at the recipe's, what the
    bundle holds enters the stage's key, and the plugin may load it.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_text = core_schema.plain_serializer_function_ser_schema(str)
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(), serialization=as_text)


Place = tuple[str | int, ...]  # keys and list indices, from the outermost to a value


def parts_of(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Options, or a part of them, and all that it holds at any depth, each with its place."""
    yield place, value
    inner: Any = ()
    if isinstance(value, Options):
        inner = value
    elif isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    for key, part in inner:
        yield from parts_of(part, (*place, key))


def bundles_in(options: Any) -> Iterator[tuple[Place, str]]:
    """Where options name bundles, and which."""
    return ((place, str(part)) for place, part in parts_of(options) if isinstance(part, BundleName))


def with_bundles(options: Any, found: Mapping[str, str]) -> Any:
    """Options, or a part of them, with other names for the bundles of `found`, at any depth.

    What a recipe leaves out stays left out (`Options.is_default`).
    """
    if not any(name in found for _, name in bundles_in(options)):
        return options
    if isinstance(options, BundleName):
        return BundleName(found[options])
    if isinstance(options, Options):
        parts = {key: (part, with_bundles(part, found)) for key, part in options}
        return options.model_copy(update={key: new for key, (part, new) in parts.items() if new is not part})
    if isinstance(options, dict):
        return type(options)((key, with_bundles(part, found)) for key, part in options.items())
    if isinstance(options, list | tuple):
        return type(options)(with_bundles(part, found) for part in options)
    return options
