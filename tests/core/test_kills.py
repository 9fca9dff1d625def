"""Every point at which the store, or a run's folder, changes the disk is the last thing that some process does."""

import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detpress.errors import InputError
from detpress.files.folders import alone_in, write_atomically
from detpress.run.run_folder import copy_stage, exchange_stages
from detpress.run.store import Store, remember

KEY = "ab" * 32
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


def die_at(nth: int, action: Callable[[], Any]) -> None:
    """Runs `action` in this process, which SIGKILL ends just before its `nth` change of the disk."""
    changes = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            changes += 1
            if changes == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    action()


def killed_everywhere(
    root: Path, prepare: Callable[[], Any], action: Callable[[], Any], check: Callable[[], Any]
) -> int:
    """Prepares `root`, has `action` killed in it, checks what is left; once for each change. How many there are."""
    for nth in range(1, 200):
        shutil.rmtree(root, ignore_errors=True)
        prepare()
        process = os.fork()
        if process == 0:
            failed = True
            with suppress(BaseException):
                die_at(nth, action)
                failed = False
            os._exit(failed)
        _, status = os.waitpid(process, 0)
        check()
        if status == 0:
            return nth - 1
        assert os.WIFSIGNALED(status), f"failed at change {nth}"
    raise AssertionError("no end")


def make(store: Store) -> None:
    """The stage as a run makes it, if it is not there: a training's rest in the scratch, then the stage."""
    with store.lock(KEY, lambda: None):
        if store.has(KEY):
            return
        if store.stage(KEY).exists():
            store.put_aside(store.stage(KEY), "broken")
        scratch = store.scratch(KEY)
        (scratch / "fit-0").mkdir(exist_ok=True)
        (scratch / "fit-0" / "last.ckpt").write_text("checkpoint")
        unfinished = scratch / "stage"
        shutil.rmtree(unfinished, ignore_errors=True)
        (unfinished / "bundle").mkdir(parents=True)
        (unfinished / "bundle" / "model.json").write_text("model")
        (unfinished / "stage.json").write_text('{"plugin": "p", "form": "dense", "seconds": 1.0}')
        store.finish(KEY, unfinished)


def measure(store: Store) -> None:
    with store.lock(f"{KEY}.measure", lambda: None):
        if not store.has_measurement(KEY, "digest"):
            unfinished = store.scratch(f"{KEY}.measure") / "measurement"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            (unfinished / "results").mkdir()
            (unfinished / "metrics.json").write_text('{"map": 0.5}')
            store.finish_measurement(KEY, "digest", unfinished)


def check_store(store: Store) -> None:
    """What is there is whole; what is not is made; everything can be removed, and nothing is left."""
    if store.has(KEY):
        assert (store.stage(KEY) / "bundle" / "model.json").read_text() == "model"
    assert len(store.listing()) == store.has(KEY)
    make(store)
    measure(store)
    assert store.has_measurement(KEY, "digest")
    store.collect(unused_seconds=3600)
    assert store.has_measurement(KEY, "digest")
    assert store.collect(unused_seconds=0).stages == 1
    for folder in ("stages", "scratch", "broken"):
        assert not [path for path in (store.root / folder).rglob("*") if path.is_file()]


def test_a_stage_killed_while_it_is_made_and_measured(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def work() -> None:
        make(store)
        measure(store)

    assert killed_everywhere(store.root, lambda: None, work, lambda: check_store(store)) > 10


def test_a_store_killed_while_it_is_collected(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def prepare() -> None:
        make(store)
        measure(store)
        (store.scratch("dead") / "fit-0").mkdir()

    assert killed_everywhere(store.root, prepare, lambda: store.collect(0), lambda: check_store(store)) > 10


@pytest.mark.parametrize("record", [None, "", "{}", "[]", '{"plugin": "p"}', 100_000 * "["])
def test_a_stage_that_is_half_there_is_made_again(tmp_path: Path, record: str | None) -> None:
    store = Store(tmp_path)
    make(store)
    (store.stage(KEY) / "stage.json").unlink()
    if record is not None:
        (store.stage(KEY) / "stage.json").write_text(record)
    assert (store.has(KEY), store.listing()) == (False, [])
    check_store(store)


def test_what_a_living_run_needs_is_neither_collected_nor_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    with store.in_use([KEY]):
        assert Store(tmp_path).collect(unused_seconds=0).stages == 0
        with pytest.raises(InputError, match="is needed by a run that is going on"):
            Store(tmp_path).remove(KEY)
        assert store.has(KEY)
    assert store.remove(KEY)
    assert not store.remove(KEY)


def test_a_run_that_was_killed_needs_nothing_any_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    process = os.fork()
    if process == 0:
        with store.in_use([KEY]):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert store.collect(unused_seconds=0).stages == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_stage_is_removed_with_what_an_unfinished_one_has_left(tmp_path: Path) -> None:
    """Or a fresh training would go on from the checkpoint of the one before."""
    store = Store(tmp_path)
    (store.scratch(KEY) / "fit-0").mkdir()
    store.remove(KEY)
    assert not (tmp_path / "scratch" / KEY).exists()


def test_what_is_remembered_is_whole_or_computed_again(tmp_path: Path) -> None:
    root = tmp_path / "remembered"

    def compute(folder: Path) -> None:
        (folder / "one").write_text("1")
        (folder / "two").write_text("2")

    def check() -> None:
        found = remember(root, {"round": 1}, compute)
        assert sorted(path.read_text() for path in found.iterdir()) == ["1", "2"]

    assert killed_everywhere(root, lambda: None, lambda: remember(root, {"round": 1}, compute), check) >= 4


def stage_of(folder: Path, text: str) -> Any:
    """A stage in the store, as far as its copy is concerned."""
    for part in ("bundle", "detections"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "content").write_text(text)
    (folder / "stage.log").write_text(text)
    return SimpleNamespace(folder=folder, bundle=folder / "bundle", detections=folder / "detections")


def test_a_run_folder_killed_while_it_is_written_again_never_names_what_is_not_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    old = {name: stage_of(tmp_path / "old" / name, "old") for name in ("0-model", "1-nni.l1norm")}
    new = {name: stage_of(tmp_path / "new" / name, "new") for name in ("0-model", "1-inc.static_int8")}

    def write(stages: dict[str, Any]) -> None:
        run.mkdir(exist_ok=True)
        exchange_stages(stages, run)
        entries = [{"index": int(name[0]), "plugin": name[2:]} for name in stages]
        write_atomically(run / "results.json", json.dumps({"stages": entries}))

    def prepare() -> None:
        write(old)
        (run / "1-nni.l1norm" / "notes.txt").write_text("mine")
        (run / "9-mine").mkdir()

    def check() -> None:
        if (run / "results.json").exists():
            entries = json.loads((run / "results.json").read_text())["stages"]
            named = [f"{entry['index']}-{entry['plugin']}" for entry in entries]
            texts = {(run / name / part).read_text() for name in named for part in ("bundle/content", "stage.log")}
            assert (named, texts) in ((list(old), {"old"}), (list(new), {"new"}))
        write(new)
        assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
            *new,
            "results.json",
            "1-nni.l1norm",
            "9-mine",
        }
        assert [path.name for path in (run / "1-nni.l1norm").iterdir()] == ["notes.txt"]
        assert not list(run.glob(".unfinished-*"))

    assert killed_everywhere(run, prepare, lambda: write(new), check) > 10


def test_a_folder_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with alone_in(tmp_path):
            order.append("second")

    other = threading.Thread(target=second)
    with alone_in(tmp_path):
        other.start()
        other.join(timeout=0.2)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_a_stage_copied_twice_is_the_second_one(tmp_path: Path) -> None:
    """As a study does where two of its jobs share a stage."""
    for text in ("old", "new"):
        copy_stage(stage_of(tmp_path / text, text), tmp_path / "copy")
    assert (tmp_path / "copy" / "bundle" / "content").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another user can be played by root alone")
def test_a_finished_store_that_cannot_be_written_is_read() -> None:
    """Another user than the one who made it, without leave to write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = Store(Path(folder) / "store")
        make(store)
        measure(store)
        process = os.fork()
        if process == 0:
            failed = True
            with suppress(BaseException):
                os.setuid(65534)
                with store.in_use([KEY]):
                    assert store.has_measurement(KEY, "digest")
                    store.touch(KEY)
                with pytest.raises(InputError, match="cannot be written"), store.lock("other", lambda: None):
                    pass
                failed = False
            os._exit(failed)
        assert os.waitpid(process, 0)[1] == 0


def test_what_is_made_in_a_folder_of_a_group_can_be_changed_by_the_group(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o2770)
    before = os.umask(0o022)
    try:
        make(Store(root / "store"))
        measure(Store(root / "store"))
    finally:
        os.umask(before)
    for path in (root / "store").rglob("*"):
        assert path.stat().st_mode & stat.S_IWGRP, path
