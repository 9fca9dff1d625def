"""A package with one plugin, whole and working, from which an author starts.

`template/` is such a package, of the plugin `mine.round`; what is made of it differs in the names alone. The manual
(docs/plugins.md) shows the same files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from detpress.contract.registry import plugin_names
from detpress.errors import InputError, shortened

TEMPLATE = Path(str(files("detpress.starter"))) / "template"
LONGEST = 40  # characters of a name, so that the lines with it are no longer than a linter likes


@dataclass(frozen=True)
class Names:
    """What the package, its folder of modules, and its plugin in recipes are called."""

    package: str
    modules: str
    plugin: str


IN_TEMPLATE = Names("detpress-mine-round", "detpress_mine_round", "mine.round")


def names_for(plugin: str) -> Names:
    """Raises InputError for what could be no plugin's name, or is one already."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([._][a-z0-9]+)*", plugin) or len(plugin) > LONGEST:
        raise InputError(
            f"NAME: {shortened(plugin)} can be no plugin's name; expected at most {LONGEST} lower-case letters and "
            "digits, such as mine.round"
        )
    if plugin in plugin_names():
        raise InputError(f"NAME: '{plugin}' is the name of a plugin that is installed; expected another one")
    modules = "detpress_" + plugin.replace(".", "_")
    return Names(modules.replace("_", "-"), modules, plugin)


def write_package(names: Names, folder: Path) -> list[Path]:
    """The files that were written below `folder`, sorted.

    Raises InputError where the folder is there already, whatever it holds.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{folder}: is there already; expected a folder to make") from None
    written = []
    for source in _sources():
        file = folder / _renamed(source.relative_to(TEMPLATE).as_posix(), names)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_renamed(source.read_text(encoding="utf-8"), names), encoding="utf-8")
        written.append(file)
    return written


def _sources() -> Iterator[Path]:
    """The template's files, but what Python compiled of them."""
    return (path for path in sorted(TEMPLATE.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def _renamed(text: str, names: Names) -> str:
    for old, new in (
        (IN_TEMPLATE.package, names.package),
        (IN_TEMPLATE.modules, names.modules),
        (IN_TEMPLATE.plugin, names.plugin),
    ):
        text = text.replace(old, new)
    return text
