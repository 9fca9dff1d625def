"""What a plugin, or whatever else has options, does as text, read off the class so that it cannot go stale."""

from dataclasses import MISSING, fields
from inspect import cleandoc
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Documented(Protocol):
    """Anything with a docstring and options."""

    Config: ClassVar[Any]


def card(documented: Documented) -> str:
    return "\n".join([cleandoc(documented.__doc__ or ""), "", *option_lines(documented.Config)])


def dataclass_card(kind: type) -> str:
    """Of a class whose options are its fields: a kind of layer, or an encoding."""
    lines = []
    for field in fields(kind):
        if not field.kw_only:
            default = "required" if field.default is MISSING else f"default {field.default!r}"
            lines.append(f"  {field.name}: {_annotation_name(field.type)}, {default}.")
    return "\n".join([cleandoc(kind.__doc__ or ""), "", *(lines or ["  no options"])])


def documented(kind: Any) -> dict[str, Any]:
    """The facts of a class with options that is listed by the first line of its docstring."""
    return {"description": _first_line(kind), "card": card(kind)}


def documented_dataclass(kind: Any) -> dict[str, Any]:
    """The facts of a class whose options are its fields."""
    return {"description": _first_line(kind), "card": dataclass_card(kind)}


def described(kind: Any) -> dict[str, Any]:
    """The facts of a class without options."""
    return {"description": _first_line(kind), "card": cleandoc(kind.__doc__ or "")}


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def option_lines(config: type[BaseModel], prefix: str = "") -> list[str]:
    """One line an option: its name, type, range, default and meaning; nested options under dotted names."""
    lines = []
    for name, field in config.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            lines += option_lines(annotation, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        lines.append(f"  {prefix}{name}: {_type_name(field)}, {default}. {field.description or ''}".rstrip())
    return lines or ["  no options"]


def _type_name(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(limit, attribute)}"
        for limit in field.metadata
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(limit, attribute)
    ]
    return " ".join([_annotation_name(field.annotation), *bounds])


def _annotation_name(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
