"""Packages of others, written as an installer leaves them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from detpress import doors
from detpress.doors import examined

Install = Callable[[str, str, Mapping[str, str], str], Path]  # as `write_distribution`, into a folder on the path


def write_distribution(folder: Path, name: str, version: str, sources: Mapping[str, str], entry_points: str) -> Path:
    """Puts the distribution into `folder`, which it gives, and which counts as installed where it is on the path.

    sources: file below the folder -> its text. entry_points: as the file of that name has them.
    """
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    for file, text in sources.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder


def forget_what_is_installed() -> None:
    doors.entries_of.cache_clear()
    doors.name_of.cache_clear()
    examined.forget()
