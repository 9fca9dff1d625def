"""What was found out about files before, which holds for as long as they are as they were."""

import contextlib
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from detpress.cache import cache_root
from detpress.files.folders import write_atomically


class SeenFiles:
    """A file in the cache for each question and folder: path -> the file's size, its time of change, what was found.

    What is unreadable, or of another version of the question, is as if nothing was seen before; a cache that cannot be
    written is none.
    """

    def __init__(self, question: str, version: int, root: Path) -> None:
        name = sha256(str(root.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]
        self._path = cache_root() / question / f"{name}-{version}.json"
        self._known: dict[str, Any] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def found(self, path: Path) -> Any:
        """Plain data; None where the file was not seen, or was another. Raises OSError where it cannot be looked at."""
        match self._known.get(str(path.absolute())):
            case [size, changed, value] if [size, changed] == _state(path):
                return value
        return None

    def add(self, path: Path, value: Any) -> None:
        self._known[str(path.absolute())] = [*_state(path), value]
        self._changed = True

    def save(self) -> None:
        if self._changed:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, json.dumps(self._known))


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
