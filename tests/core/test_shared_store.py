"""A shared store is the same in a folder, in memory and on S3 (a real server on this machine)."""

import re
import threading
import time
from pathlib import Path

import pytest

from detpress.errors import InputError, StageError
from detpress.run.shared_store import SharedStore
from detpress.run.store import Store

KEY = "ab" * 32


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{request.node.originalname}"
    return f"{request.param}://{tmp_path}/shared"


def finish(store: Store, key: str = KEY, model: str = "model") -> None:
    unfinished = store.scratch(key) / "stage"
    (unfinished / "bundle").mkdir(parents=True)
    (unfinished / "bundle/model.json").write_text(model)
    (unfinished / "stage.json").write_text('{"plugin": "p", "form": "dense", "seconds": 1.0}')
    store.finish(key, unfinished)


def test_what_one_machine_finished_is_found_by_another(url: str, tmp_path: Path) -> None:
    one, other = (Store(tmp_path / name, SharedStore(url)) for name in ("one", "other"))
    assert not other.has(KEY)
    finish(one)
    (one.scratch(KEY) / "measurement/results").mkdir(parents=True)
    (one.scratch(KEY) / "measurement/results/comp4_det_test_cat.txt").write_text("")
    (one.scratch(KEY) / "measurement/metrics.json").write_text('{"map": 0.5}')
    one.finish_measurement(KEY, "m", one.scratch(KEY) / "measurement")
    assert other.has_measurement(KEY, "m")
    assert (other.stage(KEY) / "bundle/model.json").read_text() == "model"
    assert (other.measurement(KEY, "m") / "metrics.json").read_text() == '{"map": 0.5}'
    assert [entry.key for entry in other.listing()] == [KEY]
    assert not other.has_measurement(KEY, "another")


def test_a_stage_made_before_there_was_a_shared_store_can_be_shared(url: str, tmp_path: Path) -> None:
    finish(Store(tmp_path / "one"))
    Store(tmp_path / "one", SharedStore(url)).share(KEY)
    assert Store(tmp_path / "other", SharedStore(url)).has(KEY)


@pytest.mark.parametrize("left", [0, 700, 1536])  # bytes: nothing, half a file, a file whole and the next not there
def test_a_damaged_archive_is_no_stage_and_the_next_one_takes_its_place(
    url: str, left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = SharedStore(url)
    finish(Store(tmp_path / "one", shared))
    [archive] = shared.files.find(f"{shared.root}/stages")
    shared.files.pipe_file(archive, shared.files.cat_file(archive)[:left])
    other = Store(tmp_path / "other", shared)
    assert not other.has(KEY)
    assert f"{url}/stages/ab/{KEY}.tar is broken, and made again" in caplog.text
    finish(other)
    assert Store(tmp_path / "third", shared).has(KEY)


def test_a_stage_of_no_use_is_replaced_for_the_other_machines_too(url: str, tmp_path: Path) -> None:
    shared = SharedStore(url)
    one, other, third = (Store(tmp_path / name, shared) for name in ("one", "other", "third"))
    finish(one, model="broken")
    assert other.has(KEY)
    other.put_aside(other.stage(KEY), "its bundle's digest is another one")
    finish(other)
    assert third.has(KEY)
    assert (third.stage(KEY) / "bundle/model.json").read_text() == "model"


def test_an_upload_that_stops_half_way_is_never_seen(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedStore(url)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shared.files, "mv", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(Store(tmp_path / "one", shared))
    assert not Store(tmp_path / "other", SharedStore(url)).has(KEY)


def test_four_machines_make_one_stage_once(url: str, tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> None:
        store = Store(tmp_path / name, SharedStore(url, lease_seconds=5))
        with store.lock(KEY, lambda: None):
            if not store.has(KEY):
                made.append(name)
                time.sleep(0.3)
                finish(store)

    threads = [threading.Thread(target=make, args=(f"machine{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(Store(tmp_path / f"machine{i}").has(KEY) for i in range(4))


def test_a_lease_whose_holder_died_is_taken_over_and_one_that_is_renewed_is_not(url: str) -> None:
    dead, alive = SharedStore(url, lease_seconds=1), SharedStore(url, lease_seconds=1)
    dead._acquired(f"{dead.root}/leases/dead", lambda: None)  # and nothing renews it
    waited: list[str] = []
    with alive.lease("dead", lambda: waited.append("dead")):
        assert waited == ["dead"]
        taken = threading.Event()

        def want() -> None:
            with SharedStore(url, lease_seconds=1).lease("dead", lambda: None):
                taken.set()

        other = threading.Thread(target=want)
        other.start()
        assert not taken.wait(3), "the lease is three times as old as it may be without being renewed"
    other.join()
    assert taken.is_set()
    assert alive.leases(f"{alive.root}/leases/dead") == []


@pytest.mark.parametrize("url", ["nonsense://x", "file:///proc/none", "memory://a*"])
def test_a_store_that_cannot_be_reached_is_one_line_that_names_it(url: str) -> None:
    with pytest.raises(InputError, match=f"the shared store {re.escape(url)}"):
        SharedStore(url)


def test_a_store_that_fails_later_is_one_line_that_names_it(tmp_path: Path) -> None:
    shared = SharedStore(f"file://{tmp_path}/shared")
    (tmp_path / "shared/unfinished").write_text("a file where a folder has to be")
    with pytest.raises(StageError, match=f"the shared store file://{tmp_path}/shared failed"):
        finish(Store(tmp_path / "one", shared))
