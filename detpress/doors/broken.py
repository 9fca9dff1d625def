"""What became of importing a class of another package, in one line: what it did, where, and how to be rid of it.

plugin 'mine.round' (my-package 0.1) cannot be used: OSError: no licence, at my_package/engine.py:12;
to remove it: pip uninstall my-package
"""

import inspect
import re
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from detpress.doors.entries import Entry
from detpress.errors import DetpressError

LONGEST = 300  # characters of what a package says

Frames = Iterable[tuple[str, int]]  # file and line, the innermost first


def sentence(entry: Entry, what: str, place: str) -> str:
    remedy = "" if entry.built_in else f"; to remove it: pip uninstall {entry.distribution}"
    return f"{entry} cannot be used: {what}, at {place or entry.module}{remedy}"


def words_of(error: BaseException) -> str:
    """What was raised, on one line; detpress's own errors without their class."""
    try:
        said = " ".join(str(error).split())[:LONGEST]
    except Exception:  # a stranger's error may have no words
        said = "its message cannot be read"
    if isinstance(error, SystemExit):
        return f"it asked the program to exit ({said})"
    if isinstance(error, DetpressError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def place_of(error: BaseException, entry: Entry) -> str:
    """Where in its package it was raised, as `file:line`, or where the class begins; empty where that is nowhere."""
    return place_raised(error, entry) or _nearest_place(_beginning(entry), entry)


def place_raised(error: BaseException, entry: Entry) -> str:
    """Where in its package it was raised, as `file:line`; empty where it passed through nothing of it."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 0))
    return _nearest_place(reversed(frames), entry)


def place_in(dump: str, entry: Entry) -> str:
    """The innermost place of its package in what `faulthandler` wrote."""
    return _nearest_place(((file, int(line)) for file, line in re.findall(r'File "(.+)", line (\d+)', dump)), entry)


def package_files(entry: Entry) -> list[Path]:
    """The folders of the package that the entry is in, or the file of its module; found without importing it."""
    spec = None
    with suppress(ImportError, ValueError):  # ValueError: a name that is none, or a module that was made by hand
        spec = find_spec(entry.module.partition(".")[0])
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.origin else []


def _nearest_place(frames: Frames, entry: Entry) -> str:
    roots = package_files(entry)
    for file, line in frames:
        for root in roots:
            if Path(file) == root or root in Path(file).parents:
                return f"{Path(file).relative_to(root.parent)}:{line}"
    return ""


def _beginning(entry: Entry) -> Frames:
    """File and line of the class, where it was imported."""
    loaded = getattr(sys.modules.get(entry.module), entry.value.partition(":")[2].strip(), None)
    with suppress(OSError, TypeError):  # no source is there, or it is no class
        return [(str(inspect.getsourcefile(loaded)), inspect.getsourcelines(loaded)[1])]  # type: ignore[arg-type]
    return []
