"""Results on disk, found by what made them.

Everything that decides a stage's result is hashed to its key (`stage_key` in detpress/run/keys.py), and the key is the
name of the folder that holds the result:

    <root>/stages/3f/3fa9...   a finished stage: bundle/, stage.json, stage.log, measurements
    <root>/scratch/3fa9...     what an unfinished stage keeps to go on after a kill
    <root>/locks/3fa9...       held by the process that computes the stage
    <root>/runs/<id>.json      keys that a run needs, for as long as the run holds <id>.lock
    <root>/broken/3fa9...      what was found unreadable and put aside

A stage is written into its scratch folder and then renamed, so a finished one is whole and a half-written one is
never seen; one that cannot be read is not there. The lock makes a second process wait for the first instead of
computing the same. With a shared store (detpress/run/shared_store.py), what was finished on any machine is fetched when
it is looked for.
"""

import hashlib
import json
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from detpress.cache import cache_root
from detpress.detector.form import Form
from detpress.errors import InputError, no_room
from detpress.files.folders import open_to_group, put_in_place, remove_folder, remove_rests, write_atomically
from detpress.run.shared_store import FETCHING, SharedStore

LOG = logging.getLogger(__name__)
NEEDED = {"stage.json": {"plugin", "form", "seconds"}, "metrics.json": {"map"}}  # keys that are read
SHORTEST_BEGINNING = 4  # letters of a key: one would remove a stage by a slip of the hand
ABANDONED = 24 * 3600.0  # seconds after which nobody is still fetching a stage


def digest(value: Any) -> str:
    """sha256 of plain data, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
        """Whether the stage is finished and can be read; it is fetched if another machine made it."""
        return self._found(self.stage(key), "stage.json", _stage_name(key))

    def has_measurement(self, key: str, measured: str) -> bool:
        """Whether the stage and this measurement of it are there; they are fetched if another machine made them."""
        folder, name = self.measurement(key, measured), _measurement_name(key, measured)
        return self.has(key) and self._found(folder, "metrics.json", name) and (folder / "results").is_dir()

    def _found(self, folder: Path, record: str, name: str) -> bool:
        if folder.is_dir():
            return _read_record(folder / record) is not None
        if self.shared is None:
            return False
        with open_to_group(self.root):
            return self.shared.fetch(name, folder)

    def scratch(self, key: str) -> Path:
        """The folder in which stage `key` is being made; what a killed process left there is still there."""
        folder = self.root / "scratch" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Held by one process at a time; `waiting` is called once where another one holds it.

        Raises InputError where the store cannot be written, as on a share that is read-only.
        """
        with open_to_group(self.root):
            lock = self._lock_file(f"locks/{key}")
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

    def _lock_file(self, name: str) -> FileLock:
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            if no_room(error):
                raise
            raise InputError(f"the store {self.root} cannot be written ({error.strerror}): {path}") from error
        # The umask's leave is kept: by itself, the lock would make its file writable by the owner alone.
        return FileLock(str(path), mode=stat.S_IMODE(path.stat().st_mode))

    def finish(self, key: str, folder: Path) -> None:
        """Makes `folder`, inside the stage's scratch, the finished stage, and drops the rest of the scratch."""
        self._put_in_place(folder, self.stage(key))
        remove_folder(self.root / "scratch" / key)
        self.share(key, made_now=True)

    def finish_measurement(self, key: str, measured: str, folder: Path) -> None:
        """Makes `folder`, alone in a scratch folder, a measurement of the finished stage."""
        self._put_in_place(folder, self.measurement(key, measured))
        remove_folder(folder.parent)
        self.share(key, measured, made_now=True)

    def _put_in_place(self, folder: Path, target: Path) -> None:
        if target.exists():
            self.put_aside(target, "it cannot be read")
        put_in_place(folder, target)

    def put_aside(self, folder: Path, reason: str) -> None:
        """Takes a stage, or a measurement, that is of no use out of the way; `collect` removes it."""
        aside = self.root / "broken" / folder.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        remove_folder(aside)
        with suppress(FileNotFoundError):  # another process was faster
            folder.rename(aside)
            LOG.warning("%s is broken, and made again: %s; put aside as %s", folder, reason, aside)

    def listing(self) -> list[Entry]:
        """The finished stages, the most recently used first."""
        entries = []
        for folder in self._stage_folders():
            record = _read_record(folder / "stage.json")
            if record is not None:
                used = (folder / "stage.json").stat().st_mtime
                entries.append(Entry(folder.name, record["plugin"], record["form"], used, _bytes_below(folder)))
        return sorted(entries, key=lambda entry: -entry.used)

    def _stage_folders(self) -> list[Path]:
        return list((self.root / "stages").glob("*/[!.]*"))  # hidden ones are being fetched, or removed

    def seconds(self, key: str) -> float:
        """What making the finished stage took, without measuring."""
        return float(json.loads((self.stage(key) / "stage.json").read_text())["seconds"])

    def touch(self, key: str) -> None:
        """Notes that the finished stage was used now, where the store can be written."""
        with suppress(OSError):
            (self.stage(key) / "stage.json").touch()

    def share(self, key: str, measured: str | None = None, made_now: bool = False) -> None:
        """Makes the finished stage, or that measurement of it, known to the other machines, if there are others.

        made_now: in place of what is there, which was of no use.
        """
        if self.shared and measured:
            name, folder = _measurement_name(key, measured), self.measurement(key, measured)
            self.shared.publish(name, folder, replace=made_now)
        elif self.shared:
            self.shared.publish(_stage_name(key), self.stage(key), without="measurements", replace=made_now)

    def collect(self, unused_seconds: float) -> Collected:
        """Removes the stages not used for so long that no run needs, those that cannot be read, the scratch folders
        that no process is working in, and what a download, or a removal, that was killed has left."""
        stages = removed = 0
        with open_to_group(self.root), self._lock_file("locks/collect"):
            needed = self._needed()
            entries = {entry.key: entry for entry in self.listing()}
            for folder in self._stage_folders():
                entry = entries.get(folder.name)
                unused = entry is None or time.time() - entry.used >= unused_seconds
                if unused and folder.name not in needed:
                    size = self._remove_unless_held(folder)
                    removed += size or 0
                    stages += size is not None
            for folder in (self.root / "scratch").glob("[!.]*"):
                removed += self._remove_unless_held(folder) or 0
            for folder in (self.root / "stages").rglob(f"{FETCHING}*"):
                if time.time() - folder.stat().st_mtime >= ABANDONED:
                    removed += _bytes_below(folder)
                    remove_folder(folder)
            removed += _bytes_below(self.root / "broken")
            remove_folder(self.root / "broken")
            for folder in (self.root, self.root / "scratch", *(self.root / "stages").glob("*")):
                remove_rests(folder)
        return Collected(stages, removed)

    def remove(self, key: str) -> bool:
        """Removes the stage `key` and what an unfinished one has left; whether the stage was there.

        Raises InputError where a process holds it, or needs it.
        """
        scratch = self.root / "scratch"
        parts = [part for part in (self.stage(key), scratch / key, scratch / f"{key}.measure") if part.exists()]
        if parts:
            with open_to_group(self.root), self._lock_file("locks/collect"):
                if key in self._needed() or None in [self._remove_unless_held(part) for part in parts]:
                    raise InputError(f"the stage {key[:16]} is needed by a run that is going on")
        return self.stage(key) in parts

    def find(self, beginning: str) -> str:
        """The key that begins so. Raises InputError where none does, or several do, and for a beginning too short."""
        if len(beginning) < SHORTEST_BEGINNING:
            raise InputError(f"'{beginning}': expected at least {SHORTEST_BEGINNING} letters of a stage's key")
        keys = sorted(folder.name for folder in self._stage_folders() if folder.name.startswith(beginning))
        if not keys:
            raise InputError(f"no stage whose key begins with '{beginning[:80]}'; `detpress store ls` lists them")
        if len(keys) > 1:
            raise InputError(
                f"{len(keys)} stages have keys that begin with '{beginning}', such as {keys[0]}, {keys[1]}"
            )
        return keys[0]

    def _remove_unless_held(self, folder: Path) -> int | None:
        """The bytes removed; None where a process holds the lock of that name."""
        try:
            with self._lock_file(f"locks/{folder.name}").acquire(timeout=0):
                size = _bytes_below(folder)
                remove_folder(folder)
                return size
        except Timeout:
            return None

    @contextmanager
    def in_use(self, keys: Iterable[str]) -> Iterator[None]:
        """Meanwhile `collect` leaves these stages alone. A store that cannot be written is left as it is."""
        marker = self.root / "runs" / f"{uuid.uuid4()}.json"
        try:
            with open_to_group(self.root), self._lock_file("locks/collect"):
                held = self._lock_file(f"runs/{marker.stem}.lock")
                held.acquire()
                write_atomically(marker, json.dumps(list(keys)))
        except InputError:
            yield
            return
        try:
            yield
        finally:
            marker.unlink(missing_ok=True)
            held.release()
            Path(held.lock_file).unlink(missing_ok=True)

    def _needed(self) -> set[str]:
        """Keys of the stages that living runs need; what dead ones left is removed."""
        needed: set[str] = set()
        for marker in (self.root / "runs").glob("*.json"):
            lock = self._lock_file(f"runs/{marker.stem}.lock")
            try:
                with lock.acquire(timeout=0):
                    marker.unlink(missing_ok=True)
                    Path(lock.lock_file).unlink(missing_ok=True)
            except Timeout:
                with suppress(FileNotFoundError):  # the run has just ended
                    needed.update(json.loads(marker.read_text()))
        return needed


def open_store(shared: bool = True) -> Store:
    """The store in the cache, and, if `shared`, behind it the shared one that `$DETPRESS_STORE` names."""
    url = os.environ.get("DETPRESS_STORE") if shared else None
    return Store(cache_root() / "store", SharedStore(url) if url else None)


def _stage_name(key: str) -> str:
    return f"stages/{key[:2]}/{key}"


def _measurement_name(key: str, measured: str) -> str:
    return f"measurements/{key[:2]}/{key}/{measured}"


def _read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in a stage's or a measurement's file; None where it is missing or no such."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and NEEDED[path.name] <= record.keys()
    return record if whole and record.get("form") in (None, *Form) else None


def _bytes_below(folder: Path) -> int:
    """Bytes on disk; of what another process removes meanwhile, as much as was found."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def remember(folder: Path, key: dict[str, Any], compute: Callable[[Path], None]) -> Path:
    """The subfolder of `folder` that `compute` filled for `key`; a finished one is not made again."""
    target = folder / digest(key)
    if not target.is_dir():
        unfinished = folder / f"{target.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        compute(unfinished)
        put_in_place(unfinished, target)
    return target
