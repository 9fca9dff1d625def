"""Results on disk, found by what made them.

Everything that decides a stage's result is hashed to its key (`stage_key` in detpress/keys.py), and the key is the
name of the folder that holds the result:

    <root>/stages/3f/3fa9...   a finished stage: bundle/, stage.json, stage.log, measurements
    <root>/scratch/3fa9...     what an unfinished stage keeps to go on after a kill
    <root>/locks/3fa9...       held by the process that computes the stage

A stage is written into its scratch folder and then renamed, so a finished one is whole and a half-written one is
never seen; the lock makes a second process wait for the first instead of computing the same. With a shared store
(detpress/shared_store.py), what was finished on any machine is fetched when it is looked for.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from detpress.cache import cache_root
from detpress.shared_store import FETCHING, SharedStore

ABANDONED = 24 * 3600.0  # seconds after which nobody is still fetching a stage


def digest(value: Any) -> str:
    """sha256 of plain data, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file at once: a reader, or a kill, sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Entry:
    """A finished stage in a listing. used: seconds since the epoch; bytes: on disk, measurements included."""

    key: str
    plugin: str
    form: str
    used: float
    bytes: int


@dataclass(frozen=True)
class Collected:
    """What `Store.collect` removed."""

    stages: int
    bytes: int


class Store:
    """Finished stages below `root`, shared by recipes, by processes and, through `shared`, by machines."""

    def __init__(self, root: Path, shared: SharedStore | None = None) -> None:
        self.root, self.shared = root, shared

    def stage(self, key: str) -> Path:
        """Where the finished stage `key` lies, or would lie."""
        return self.root / "stages" / key[:2] / key

    def measurement(self, key: str, measured: str) -> Path:
        """Where the measurement of that digest lies, or would lie."""
        return self.stage(key) / "measurements" / measured

    def has(self, key: str) -> bool:
        """Whether the stage is finished; it is fetched if another machine made it."""
        return self._found(self.stage(key), _stage_name(key))

    def has_measurement(self, key: str, measured: str) -> bool:
        """Whether the stage and this measurement of it are there; they are fetched if another machine made them."""
        return self.has(key) and self._found(self.measurement(key, measured), _measurement_name(key, measured))

    def _found(self, folder: Path, name: str) -> bool:
        return folder.is_dir() or (self.shared is not None and self.shared.fetch(name, folder))

    def scratch(self, key: str) -> Path:
        """The folder in which stage `key` is being made; what a killed process left there is still there."""
        folder = self.root / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Held by one process at a time; `waiting` is called once where another one holds it."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder / key))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            with self.shared.lease(key, waiting) if self.shared else nullcontext():
                yield
        finally:
            lock.release()

    def finish(self, key: str, folder: Path) -> None:
        """Makes `folder`, inside the stage's scratch, the finished stage, and drops the rest of the scratch."""
        target = self.stage(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        shutil.rmtree(self.root / "scratch" / key)
        self.share(key)

    def finish_measurement(self, key: str, measured: str, folder: Path) -> None:
        """Makes `folder`, inside the stage's scratch, a measurement of the finished stage."""
        target = self.measurement(key, measured)
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        folder.parent.rmdir()
        self.share(key, measured)

    def listing(self) -> list[Entry]:
        """The finished stages, the most recently used first."""
        entries = []
        for folder in (self.root / "stages").glob("*/[!.]*"):  # hidden ones are being fetched
            record = json.loads((folder / "stage.json").read_text())
            used = (folder / "stage.json").stat().st_mtime
            entries.append(Entry(folder.name, record["plugin"], record["form"], used, _bytes_below(folder)))
        return sorted(entries, key=lambda entry: -entry.used)

    def seconds(self, key: str) -> float:
        """What making the finished stage took, without measuring."""
        return float(json.loads((self.stage(key) / "stage.json").read_text())["seconds"])

    def touch(self, key: str) -> None:
        """Notes that the finished stage was used now."""
        (self.stage(key) / "stage.json").touch()

    def share(self, key: str, measured: str | None = None) -> None:
        """Makes the finished stage, or that measurement of it, known to the other machines, if there are others."""
        if self.shared and measured:
            self.shared.publish(_measurement_name(key, measured), self.measurement(key, measured))
        elif self.shared:
            self.shared.publish(_stage_name(key), self.stage(key), without="measurements")

    def collect(self, unused_seconds: float) -> Collected:
        """Removes the stages not used for so long, the scratch folders that no process is working in, and what a
        download that was killed has left."""
        stages = removed = 0
        for entry in self.listing():
            if time.time() - entry.used >= unused_seconds:
                with self.lock(entry.key, lambda: None):
                    shutil.rmtree(self.stage(entry.key))
                stages += 1
                removed += entry.bytes
        for folder in (self.root / "scratch").glob("*"):
            lock = FileLock(str(self.root / "locks" / folder.name))
            try:
                with lock.acquire(timeout=0):
                    removed += _bytes_below(folder)
                    shutil.rmtree(folder)
            except Timeout:
                continue  # a process is making this stage
        for folder in (self.root / "stages").rglob(f"{FETCHING}*"):
            if time.time() - folder.stat().st_mtime >= ABANDONED:
                removed += _bytes_below(folder)
                shutil.rmtree(folder)
        return Collected(stages, removed)


def open_store() -> Store:
    """The store in the cache, and behind it the shared one that `$DETPRESS_STORE` names, if it does."""
    url = os.environ.get("DETPRESS_STORE")
    return Store(cache_root() / "store", SharedStore(url) if url else None)


def _stage_name(key: str) -> str:
    return f"stages/{key[:2]}/{key}"


def _measurement_name(key: str, measured: str) -> str:
    return f"measurements/{key[:2]}/{key}/{measured}"


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remember(folder: Path, key: dict[str, Any], compute: Callable[[Path], None]) -> Path:
    """The subfolder of `folder` that `compute` filled for `key`; a finished one is not made again."""
    target = folder / digest(key)
    if not target.is_dir():
        unfinished = folder / f"{target.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        compute(unfinished)
        unfinished.rename(target)
    return target
