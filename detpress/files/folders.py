"""Folders that come and go at once, whatever is killed in between, and that a group can share.

A folder is filled under another name, brought to the disk, and renamed; it is renamed away before it is deleted. So a
kill, or a power cut, leaves a whole folder or none, and rests whose names begin with a dot.
"""

import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # of what is called by a person: runs, studies, rows, plugins
SYNCED_AT_ONCE = 4  # files: a disk brings several home in little more time than one
REMOVED = ".removed-"  # begins the name of a folder that is being deleted


def put_in_place(folder: Path, target: Path) -> None:
    """Renames `folder`, once all in it is on the disk, to `target`, which must not exist, or be empty."""
    with ThreadPoolExecutor(SYNCED_AT_ONCE) as pool:
        list(pool.map(_sync, [folder, *folder.rglob("*")]))  # a list, so that what is raised is raised here
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    _sync(target.parent)


def copy_folder(folder: Path, target: Path) -> None:
    """As `shutil.copytree`, which hides what the system said in a text: OSError is raised as it is."""
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (copy_folder if path.is_dir() else shutil.copy2)(path, target / path.name)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Held by one process at a time; where the file system has no such locks, by any."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Deletes `folder`; where it is not there, another process was faster."""
    away = folder.with_name(f"{REMOVED}{uuid.uuid4()}")
    try:
        folder.rename(away)
    except FileNotFoundError:
        return
    shutil.rmtree(away, ignore_errors=True)


def remove_rests(folder: Path) -> None:
    """Deletes what a `remove_folder` that was killed has left in `folder`."""
    for rest in folder.glob(f"{REMOVED}*"):
        shutil.rmtree(rest, ignore_errors=True)


@contextmanager
def open_to_group(folder: Path) -> Iterator[None]:
    """What is made meanwhile can be changed by the group, where `folder` is, or will be, in one that a group shares:
    whose members may write to it and whose files all belong to the group (the bits g+w and g+s)."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    shared = stat.S_ISGID | stat.S_IWGRP
    if existing.stat().st_mode & shared != shared:
        yield
        return
    before = os.umask(0o077)
    os.umask(before & ~0o070)
    try:
        yield
    finally:
        os.umask(before)


def _sync(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk; where folders cannot be opened (Windows), the files."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
