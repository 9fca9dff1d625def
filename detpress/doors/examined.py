"""What is known of other packages' classes without importing them into this process.

They are imported in a child process (`detpress.doors.examination`). What it found of those that can be used is kept in
the cache for as long as their distribution stays the same; those that cannot be used are examined every time, since
what they lack may be there the next time.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from detpress.cache import cache_root
from detpress.doors.broken import package_files, sentence
from detpress.doors.door import API_VERSION, Door
from detpress.doors.entries import BUILT_IN, Entry, entries_of, installed_version
from detpress.errors import InputError
from detpress.files.folders import write_atomically

FORMAT = 3  # of what is kept: raised when facts change
SECONDS = "DETPRESS_IMPORT_SECONDS"  # environment variable: how long importing one class may take
LIMIT = 30.0


@dataclass(frozen=True)
class Finding:
    """What became of a class that was examined: either its facts, or in one line why it cannot be used.

    seconds: that importing it took, where it is of another package.
    """

    entry: Entry
    facts: dict[str, Any]
    failure: str = ""
    seconds: float = 0.0


_found: dict[Entry, Finding] = {}  # by this process


def examine(entries: Iterable[Entry], door: Door) -> list[Finding]:
    """One finding an entry, in their order."""
    entries = list(entries)
    unknown: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry not in _found:
            unknown.setdefault(entry.distribution, []).append(entry)
    kept = {package: _kept(of_it[0], door) for package, of_it in unknown.items()}
    for package, of_it in unknown.items():
        known = _read(kept[package])
        _found.update({entry: Finding(entry, **known[entry.name]) for entry in of_it if entry.name in known})
    left = {package: [entry for entry in of_it if entry not in _found] for package, of_it in unknown.items()}
    if packages := [of_it for of_it in left.values() if of_it]:
        _found.update({finding.entry: finding for finding in _ask(packages, door)})
        for package, of_it in left.items():
            _keep(kept[package], [_found[entry] for entry in of_it])
    return [_found[entry] for entry in entries]


def forget() -> None:
    """What this process knows; the cache stays."""
    _found.clear()


def time_limit() -> float:
    """Seconds that importing one class may take. Raises InputError where the environment does not give a number."""
    given = os.environ.get(SECONDS, str(LIMIT))
    with suppress(ValueError):
        if 0 < float(given) <= 86400:
            return float(given)
    raise InputError(f"{SECONDS}: expected a number of seconds, got {given!r}")


def _ask(packages: Sequence[Sequence[Entry]], door: Door) -> list[Finding]:
    """The findings of a child process, one an entry; each package comes with its entries."""
    request = {
        "group": door.group,
        "kind": door.kind,
        "facts": f"{door.facts.__module__}:{door.facts.__qualname__}",
        "packages": [[asdict(entry) for entry in entries] for entries in packages],
        "limit": time_limit(),
    }
    path = [str(Path(folder).absolute()) for folder in sys.path]
    start = f"import sys; sys.path[:] = {path!r}; from detpress.doors.examination import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    told = {finding["name"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    ended = f"the process in which it was examined ended with exit code {done.returncode}"
    return [
        Finding(entry, found.get("facts", {}), found.get("failure", ""), found.get("seconds", 0.0))
        for entries in packages
        for entry in entries
        for found in [told.get(entry.name, {"failure": sentence(entry, ended, "")})]
    ]


def _kept(entry: Entry, door: Door) -> Path:
    """The file of the cache that has what is known of the distribution's entries in this group.

    Its name is a hash of what decides it: the distribution's name, version, entries and code, the versions of what it
    requires, and the Python and detpress that imported it.
    """
    brought = [other for other in entries_of(door.group).values() if other.distribution == entry.distribution]
    files = {str(file.relative_to(root.parent)): _state(file) for root in _roots(brought) for file in _files(root)}
    parts = [
        [FORMAT, API_VERSION, platform.python_version(), sys.prefix, installed_version(BUILT_IN)],
        [entry.distribution, entry.version, door.group],
        sorted([other.plain, other.value] for other in brought),
        {name: installed_version(name) for name in _required(entry.distribution)},
        files,
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache_root() / "examined" / f"{digest}.json"


def _required(distribution: str) -> set[str]:
    """The names of what the distribution says that it needs, whatever the conditions."""
    with suppress(metadata.PackageNotFoundError):
        return {re.split(r"[^A-Za-z0-9._-]", line.strip())[0] for line in metadata.requires(distribution) or ()}
    return set()


def _roots(brought: Iterable[Entry]) -> set[Path]:
    return {root for entry in brought for root in package_files(entry)}


def _files(root: Path) -> list[Path]:
    """The root itself, or all that lies in it but what Python compiles."""
    if not root.is_dir():
        return [root]
    return [path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def _state(file: Path) -> str | list[int]:
    """A hash of source; of all else, which may be large, its size and the time when it was written."""
    if file.suffix == ".py":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return [file.stat().st_size, file.stat().st_mtime_ns]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Facts and seconds by name; nothing where the cache has none that can be read."""
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
        return {name: {"facts": found["facts"], "seconds": found["seconds"]} for name, found in known.items()}
    return {}


def _keep(file: Path, findings: Iterable[Finding]) -> None:
    """Adds those that can be used; a cache that cannot be written is done without."""
    known = _read(file)
    used = {found.entry.name: {"facts": found.facts, "seconds": found.seconds} for found in findings if found.facts}
    if used:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(known | used))
