"""Finished stages are whole, never made twice, and found by their key."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detpress.files.folders import write_atomically
from detpress.run.store import Store, digest, remember

KEY = "ab" * 32


def finish(store: Store, key: str = KEY) -> None:
    unfinished = store.scratch(key) / "stage"
    unfinished.mkdir()
    (unfinished / "stage.json").write_text('{"plugin": "p", "form": "dense", "seconds": 1.0}')
    store.finish(key, unfinished)


def make_once(root: Path, log: Path) -> None:
    store = Store(root)
    with store.lock(KEY, lambda: None):
        if not store.has(KEY):
            with log.open("a") as file:
                file.write("made\n")
            time.sleep(0.3)
            finish(store)


def hold_lock_until_killed(root: Path) -> None:
    store = Store(root)
    with store.lock(KEY, lambda: None):
        (store.scratch(KEY) / "half").write_text("half written")
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_unfinished_stage_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.scratch(KEY) / "stage").mkdir()
    assert not store.has(KEY)
    assert store.listing() == []


def test_a_finished_stage_is_there_and_its_scratch_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    assert store.has(KEY)
    assert [entry.key for entry in store.listing()] == [KEY]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    "record",
    ["", "[]", '{"plugin": "p"}', '{"plugin": "p", "form": "nope", "seconds": 1}', '{"plugin": "p", "form": []}'],
)
def test_a_stage_whose_record_no_detpress_wrote_is_not_there(tmp_path: Path, record: str) -> None:
    store = Store(tmp_path)
    finish(store)
    (store.stage(KEY) / "stage.json").write_text(record)
    assert not store.has(KEY)


def test_a_measurement_without_its_figures_or_its_detections_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    for figures, folder, there in (
        ('{"map": 0.5}', "results", True),
        ("{}", "results", False),
        ('{"map": 0}', "x", False),
    ):
        unfinished = store.scratch(KEY) / "measurement"
        (unfinished / folder).mkdir(parents=True)
        (unfinished / "metrics.json").write_text(figures)
        store.finish_measurement(KEY, "m", unfinished)
        assert store.has_measurement(KEY, "m") is there


def test_four_processes_make_one_stage_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    processes = [context.Process(target=make_once, args=(tmp_path / "store", log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert log.read_text() == "made\n"


def test_a_killed_process_leaves_its_scratch_and_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hold_lock_until_killed, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    waited: list[bool] = []
    with store.lock(KEY, lambda: waited.append(True)):
        assert not waited
        assert (store.scratch(KEY) / "half").read_text() == "half written"


def test_collect_removes_unused_stages_and_abandoned_scratch_but_not_a_scratch_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    (store.scratch("dead") / "rest").write_text("x")
    (store.scratch("alive") / "rest").write_text("x")
    with store.lock("alive", lambda: None):
        assert store.collect(unused_seconds=3600).stages == 0
        assert store.has(KEY)
        assert store.collect(unused_seconds=0).stages == 1
    assert not store.has(KEY)
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["alive"]


def test_collect_removes_what_a_killed_download_left_a_day_ago(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store)
    old, new = (store.stage(KEY).parent / f".fetched-{name}" for name in ("old", "new"))
    for folder in (old, new):
        (folder / "folder").mkdir(parents=True)
    os.utime(old, (0, 0))
    store.collect(unused_seconds=3600)
    assert (old.exists(), new.exists(), store.has(KEY)) == (False, True, True)


def test_remember_computes_a_key_once_and_starts_again_after_a_failure(tmp_path: Path) -> None:
    calls = []

    def compute(folder: Path) -> None:
        calls.append(1)
        (folder / "part").write_text("x")
        if len(calls) == 1:
            raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        remember(tmp_path, {"round": 1}, compute)
    for _ in range(2):
        assert (remember(tmp_path, {"round": 1}, compute) / "part").read_text() == "x"
    assert len(calls) == 2


def test_atomic_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


keys = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(keys, values, max_size=4))
def test_digest_does_not_depend_on_the_order_of_keys(data) -> None:
    assert digest(data) == digest(dict(reversed(list(data.items()))))


@given(st.dictionaries(keys, values, max_size=4), keys, st.integers())
def test_digest_depends_on_every_value(data, key: str, value: int) -> None:
    changed = data | {key: value}
    assert (digest(changed) == digest(data)) == (changed == data and type(data.get(key)) is int)
