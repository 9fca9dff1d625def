"""What a recipe names with its options: plugins, tuners, assessors."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from detpress.contract.plugin import Plugin
from detpress.contract.registry import why_unavailable
from detpress.contract.tuner import Assessor, Tuner
from detpress.doors.broken import words_of
from detpress.errors import InputError
from detpress.options import Options, Place
from detpress.recipe.yaml_source import YamlSource, spell_out

Named = TypeVar("Named", Plugin, Tuner, Assessor)


def read_named(
    item: object,
    place: Place,
    load: Callable[[str], Named],
    word: str,
    example: str,
    source: YamlSource,
    mistakes: list[str],
) -> tuple[str, Named, Options] | None:
    """`NAME` or `{NAME: options}`: the name, what it names and its checked options; None after a mistake."""
    named = {item: {}} if isinstance(item, str) else item
    if not isinstance(named, dict) or len(named) != 1:
        mistakes.append(f"{source.where(place)}: expected one {word} with its options, such as `{example}`")
        return None
    name, options = next(iter(named.items()))
    try:
        loaded = load(name)
    except InputError as error:
        mistakes.append(f"{source.where(place)}: {error}")
        return None
    if reason := why_unavailable(loaded, name):
        mistakes.append(f"{source.where((*place, name))}: the {word} cannot run here: {reason}")
        return None
    try:
        return name, loaded, loaded.Config.model_validate({} if options is None else options)
    except ValidationError as error:
        mistakes += spell_out(error, loaded.Config, source, (*place, name))
    except Exception as error:  # a stranger's validator may do anything
        mistakes.append(f"{source.where((*place, name))}: its options cannot be checked: {words_of(error)}")
    return None
