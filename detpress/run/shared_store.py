"""Finished stages where every machine finds them: a folder behind fsspec, such as `s3://bucket/stages`.

    stages/3f/3fa9...tar               a finished stage, without its measurements
    measurements/3f/3fa9.../<digest>.tar   one of its measurements
    leases/3fa9.../0, 1, ...           the highest number's holder is at work on it
    unfinished/                        what is being uploaded

A file is uploaded under another name and then moved, so a half-written one is never seen. Where two machines could do
the same work, the one that holds the lease does it. A lease is a file that only its holder changes, every few seconds;
one that has stood still for `lease_seconds`, by the clock of whoever waits, has lost its holder and is taken over. Its
files are made by exclusive creation alone, the one promise that local folders and S3 (`If-None-Match`) both keep. A
holder that was asleep for longer than that, and wakes, does the work a second time: harmless, as the same key means
the same result.
"""

import logging
import os
import socket
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from detpress.errors import DetpressError, InputError, StageError, no_room

LEASE_SECONDS = 30.0
FETCHING = ".fetched-"  # begins the name of a folder in which a stage is being fetched
LOG = logging.getLogger(__name__)


class SharedStoreError(StageError):
    """The store failed, not the stage."""


class SharedStore:
    """The folder `url`. Raises InputError where it cannot be reached, SharedStoreError where it fails afterwards."""

    def __init__(self, url: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self.url = url if "://" in url else str(Path(url).absolute())  # the same from any working directory
        self.lease_seconds = lease_seconds
        if any(character in url for character in "*?[]"):
            raise InputError(f"the shared store {url}: a name with * ? [ or ] cannot be used, it would be a pattern")
        with self._errors_named(InputError):
            # A listing that was kept would hide what another machine has made since.
            self.files, self.root = fsspec.url_to_fs(self.url, use_listings_cache=False)
            self.files.makedirs(self.root, exist_ok=True)

    @contextmanager
    def _errors_named(self, kind: type[DetpressError] = SharedStoreError) -> Iterator[None]:
        """Whatever the library of the protocol raises becomes one line that names the store."""
        try:
            yield
        except Exception as error:
            if no_room(error):
                raise
            raise kind(f"the shared store {self.url} failed: {type(error).__name__}: {error}") from error

    def fetch(self, name: str, target: Path) -> bool:
        """Makes the folder `target` what was published as `name`; False where nothing was, or what is of no use."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=FETCHING) as temporary:
            archive, unpacked = Path(temporary) / "archive.tar", Path(temporary) / "folder"
            with self._errors_named():
                if not self.files.exists(f"{self.root}/{name}.tar"):
                    return False
                self.files.get_file(f"{self.root}/{name}.tar", str(archive))
            try:
                _check_end(archive)
                with tarfile.open(archive) as packed:
                    packed.extractall(unpacked, filter="data")
            except (tarfile.TarError, EOFError) as error:
                LOG.warning("%s/%s.tar is broken, and made again: %s", self.url, name, error)
                with self._errors_named(), suppress(FileNotFoundError):  # another process was faster
                    self.files.rm_file(f"{self.root}/{name}.tar")
                return False
            with suppress(OSError):  # not empty: another process was faster
                unpacked.rename(target)
        return True

    def publish(self, name: str, folder: Path, without: str | None = None, replace: bool = False) -> None:
        """Uploads `folder`, but for its subfolder `without`. What is there already stays, or is replaced."""
        target, unfinished = f"{self.root}/{name}.tar", f"{self.root}/unfinished/{uuid.uuid4()}"
        with self._errors_named(), tempfile.TemporaryDirectory() as temporary:
            if not replace and self.files.exists(target):
                return
            archive = Path(temporary) / "archive.tar"
            with tarfile.open(archive, "w") as packed:
                for part in sorted(folder.iterdir()):
                    if part.name != without:
                        packed.add(part, part.name)
            for path in (unfinished, target):
                self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(archive), unfinished)
            self.files.mv(unfinished, target)

    @contextmanager
    def lease(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Held by one process at a time; `waiting` is called once where another one holds it."""
        with self._errors_named():
            held = self._acquired(f"{self.root}/leases/{key}", waiting)
        stop = threading.Event()
        beating = threading.Thread(target=self._beat, args=(held, stop), daemon=True)
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()
            with self._errors_named(), suppress(FileNotFoundError):  # taken over while this process was asleep
                self.files.rm_file(held)

    def leases(self, folder: str) -> list[int]:
        """The numbers of the leases in `folder`."""
        try:
            return [int(path.rpartition("/")[2]) for path in self.files.ls(folder, detail=False)]
        except FileNotFoundError:  # S3 has no empty folders
            return []

    def _acquired(self, folder: str, waiting: Callable[[], None]) -> str:
        self.files.makedirs(folder, exist_ok=True)
        seen, since = None, time.monotonic()
        while True:
            highest = max(self.leases(folder), default=-1)
            beat = self._read(f"{folder}/{highest}") if highest >= 0 else b""
            if (highest, beat) != seen:
                if seen is None and highest >= 0:
                    waiting()
                seen, since = (highest, beat), time.monotonic()
            if highest < 0 or time.monotonic() - since >= self.lease_seconds:
                mine = f"{folder}/{highest + 1}"
                try:
                    with self.files.open(mine, "xb") as file:
                        file.write(_beat_text(0))
                except FileExistsError:
                    continue  # another process was faster
                with suppress(FileNotFoundError):
                    self.files.rm_file(f"{folder}/{highest}")
                return mine
            time.sleep(min(1.0, self.lease_seconds / 10))

    def _read(self, path: str) -> bytes:
        try:
            return bytes(self.files.cat_file(path))
        except FileNotFoundError:
            return b"released"

    def _beat(self, held: str, stop: threading.Event) -> None:
        beats = 0
        while not stop.wait(self.lease_seconds / 5):
            beats += 1
            try:
                if self.files.exists(held):
                    self.files.pipe_file(held, _beat_text(beats))
            except Exception as error:  # whatever the library of that protocol raises; the next beat may get through
                LOG.warning("%s could not be renewed: %s", held, error)


def _check_end(archive: Path) -> None:
    """Raises TarError where the archive was cut short, be it between two files, which `tarfile` does not see."""
    with archive.open("rb") as file:
        file.seek(-min(archive.stat().st_size, 2 * tarfile.BLOCKSIZE), os.SEEK_END)
        if file.read() != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")


def _beat_text(beats: int) -> bytes:
    return f"{socket.gethostname()} {os.getpid()} {beats}".encode()
