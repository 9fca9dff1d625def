"""What a plugin, or a tuner, does and its options as text, read off the class so that they cannot go stale."""

from inspect import cleandoc
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Documented(Protocol):
    """Anything with a docstring and options."""

    Config: ClassVar[Any]


def card(heading: str, documented: Documented) -> str:
    return "\n".join([heading, "", cleandoc(documented.__doc__ or ""), "", *option_lines(documented.Config)])


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
    annotation = field.annotation
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    bounds = [
        f"{sign} {getattr(limit, attribute)}"
        for limit in field.metadata
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if hasattr(limit, attribute)
    ]
    return " ".join([name, *bounds])
