"""Paths in a recipe: relative ones start at its folder, and all are absolute once it is read."""

from collections.abc import Callable, Collection
from pathlib import Path, PurePath
from typing import Any

from detpress.builtin import BUILTIN, find_bundle, shipped_folder
from detpress.contract.plugin import Plugin
from detpress.errors import InputError
from detpress.options import STAGE, Options, Place, bundles_in
from detpress.recipe.yaml_source import YamlSource, spell


def bundles_found(options: Any, plugin: Plugin, config: Options, place: Place, source: YamlSource) -> Any:
    """A step's options, as the recipe has them at `place`, with the bundles that they name found; earlier stages stay.

    config: the same options, checked, which tell what is a bundle.
    """
    typed = list(bundles_in(config))
    for inner, name in typed:
        if name.startswith(STAGE):
            _check_earlier(name, (*place, *inner), source)
            continue
        options = _with(options, inner, resolve(name, (*place, *inner), source))
    if others := set(plugin.bundles(config)) - {name for _, name in typed}:
        options = _with_found(options, others, place, source)
    return options


def _check_earlier(name: str, place: Place, source: YamlSource) -> None:
    """Raises InputError unless `stage:N`, as an option of chain[i] names it, went into that step, or earlier."""
    last = int(place[1])
    if name not in [f"{STAGE}{number}" for number in range(last + 1)]:
        known = f"{STAGE}0, the model" + (f", to {STAGE}{last}, which this step takes" if last else "")
        raise InputError(f"{source.where(place)}: '{name}': expected {known}")


def _with(data: Any, place: Place, value: str) -> Any:
    """Options as the recipe has them, `value` in the place of what stands there; what is a default stands nowhere."""
    if not place:
        return value
    key, *rest = place
    if isinstance(data, list) and isinstance(key, int):
        return [_with(part, tuple(rest), value) if i == key else part for i, part in enumerate(data)]
    if isinstance(data, dict) and key in data:
        return data | {key: _with(data[key], tuple(rest), value)}
    return data


def _with_found(value: Any, bundles: Collection[str], place: Place, source: YamlSource) -> Any:
    """As a plugin that names its bundles as plain text expects: every text that is one of them, at any depth."""
    if isinstance(value, dict):
        return {key: _with_found(inner, bundles, (*place, key), source) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_found(inner, bundles, (*place, i), source) for i, inner in enumerate(value)]
    return resolve(value, place, source) if isinstance(value, str) and value in bundles else value


def resolve(value: str, place: Place, source: YamlSource, check_builtin: Callable[[str], object] = find_bundle) -> str:
    """A path of the recipe, absolute. Relative ones start at the recipe's folder and stay below it; what the user
    gives by `--set` is the user's own and starts at the working directory, and so does what a shipped recipe names,
    which has nothing of the user's in its folder. Of what is built in, the name is checked."""
    if value.startswith(BUILTIN):
        try:
            check_builtin(value)
        except InputError as error:
            raise InputError(f"{source.where(place)}: {error}") from error
        return value
    if source.is_set(place):
        return str(Path(value).absolute())
    if ".." in PurePath(value).parts and not PurePath(value).is_absolute():
        option = spell((*place[:2], *place[3:]))  # --set names no plugin
        raise InputError(
            f"{source.where(place)}: '{value}' climbs out of the recipe's folder; "
            f"expected a path below it, an absolute one, or --set {option}=PATH"
        )
    home = source.path.parent.absolute()
    return str((Path() if home.is_relative_to(shipped_folder()) else home).absolute() / value)
