"""Which pictures of a data set were read before and found whole."""

import contextlib
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from detpress.cache import cache_root
from detpress.detector import images
from detpress.run.store import write_atomically

Size = tuple[int, int] | None  # as the annotation says, see `read_image`


class ReadPictures:
    """A file in the cache for each data set: path -> the file's size, its time of change, the annotation's size.

    What is unreadable, or of another version of reading, is as if nothing was read before; a cache that cannot be
    written is none.
    """

    def __init__(self, root: Path) -> None:
        name = sha256(str(root.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]
        self._path = cache_root() / "pictures-read" / f"{name}-{images.VERSION}.json"
        self._known: dict[str, Any] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def __contains__(self, picture: tuple[Path, Size]) -> bool:
        path, size = picture
        return self._known.get(str(path.absolute())) == _state(path, size)

    def add(self, path: Path, size: Size) -> None:
        self._known[str(path.absolute())] = _state(path, size)
        self._changed = True

    def save(self) -> None:
        if self._changed:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, json.dumps(self._known))


def _state(path: Path, size: Size) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, *(size or ())]
