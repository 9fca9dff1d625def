"""An objective as a recipe names it: `mine.critic`, or `mine.critic: {weight: 0.1}`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from detpress.doors import Door, load_class
from detpress.doors.card import documented
from detpress.errors import InputError
from detpress.options import Options, parts_of

if TYPE_CHECKING:
    from detpress.training.objective import Objective

OBJECTIVES = Door("detpress.objectives", "detpress.training.objective:Objective", documented)


def load_objective(name: str) -> "type[Objective]":
    """Raises InputError for a name that is unknown, given twice, or broken."""
    loaded: type[Objective] = load_class(name, OBJECTIVES)
    return loaded


class NamedObjective(dict[str, Options]):
    """An objective's name and, as its only value, its checked options: a type that options may have."""

    @property
    def name(self) -> str:
        return next(iter(self))

    def made(self) -> "Objective":
        return load_objective(self.name)(self[self.name])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._read,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._written, info_arg=True),
        )

    @classmethod
    def _read(cls, value: Any) -> "NamedObjective":
        """Raises ValueError, or pydantic's error with the place of each wrong option."""
        if isinstance(value, NamedObjective):
            return value
        named = {value: {}} if isinstance(value, str) else value
        if not isinstance(named, dict) or len(named) != 1:
            raise ValueError("expected one objective with its options, such as `detection: {}`")
        [(name, options)] = named.items()
        try:
            kind = load_objective(str(name))
        except InputError as error:
            raise ValueError(str(error)) from error
        one: TypeAdapter[dict[str, Options]] = TypeAdapter(dict[str, kind.Config])  # type: ignore[name-defined]
        return cls(one.validate_python({name: {} if options is None else options}))

    def _written(self, info: core_schema.SerializationInfo) -> dict[str, Any]:
        options = self[self.name].model_dump(
            mode=info.mode, exclude_defaults=info.exclude_defaults, exclude_unset=info.exclude_unset
        )
        return {self.name: options}


def objectives_in(options: Options) -> Iterator[NamedObjective]:
    """Those that the options name, at any depth."""
    return (part for _, part in parts_of(options) if isinstance(part, NamedObjective))
