"""How things that come with the package are named where a path may stand, too: `builtin:digits`."""

from importlib.resources import files
from pathlib import Path

from detpress.errors import InputError, nearest

BUILTIN = "builtin:"
DATA_SETS = ("digits",)


def shipped_folder() -> Path:
    """Where the recipes, studies and bundles are that come with the package."""
    return Path(str(files("detpress.recipes")))


def shipped_bundles() -> dict[str, Path]:
    """Name -> folder of the bundles that come with the package."""
    return {path.name: path for path in sorted(shipped_folder().glob("bundles/*")) if path.is_dir()}


def find_bundle(name_or_path: str) -> Path:
    """The folder of `builtin:NAME`, or the path itself. Raises InputError for a name that is not shipped."""
    if not name_or_path.startswith(BUILTIN):
        return Path(name_or_path)
    name, shipped = name_or_path.removeprefix(BUILTIN), shipped_bundles()
    if name not in shipped:
        raise InputError(f"no shipped bundle '{name_or_path}'; {nearest(name, shipped)}")
    return shipped[name]


def check_data_set(name: str) -> None:
    """Raises InputError unless `name` is the `builtin:NAME` of a data set."""
    known = [BUILTIN + name for name in DATA_SETS]
    if name not in known:
        raise InputError(f"no built-in data set '{name}'; {nearest(name, known)}")
