"""Archives come from an HTTP server on this machine: fetched once, checked, and never unpacked outside their folder."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detpress.cache import cache_root
from detpress.errors import InputError
from detpress.voc.download import Archive, DownloadError, download_voc, get_data_set, known_data_sets, voc_archives

Serve = Callable[[str, dict[str, bytes]], Archive]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that puts a tar file of the given members on a web server and describes it as an Archive."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def publish(filename: str, members: dict[str, bytes]) -> Archive:
        with tarfile.open(folder / filename, "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        data = (folder / filename).read_bytes()
        return Archive(f"http://127.0.0.1:{server.server_port}/{filename}", filename, md5(data), len(data))

    yield publish
    server.shutdown()
    thread.join()
    server.server_close()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def refused() -> Archive:
    """An archive on a port where nothing listens any more."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.server_close()
    return Archive(f"http://127.0.0.1:{server.server_port}/voc.tar", "voc.tar", md5(b""), 10)


def test_two_archives_become_one_devkit(serve: Serve, tmp_path: Path) -> None:
    archives = [
        serve("trainval.tar", {"VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": b"000005\n"}),
        serve("test.tar", {"VOCdevkit/VOC2007/ImageSets/Main/test.txt": b"000001\n"}),
    ]
    devkit = download_voc("2007", tmp_path / "data", {"2007": archives})
    assert devkit == tmp_path / "data" / "VOCdevkit" / "VOC2007"
    assert (devkit / "ImageSets/Main/trainval.txt").read_text() == "000005\n"
    assert (devkit / "ImageSets/Main/test.txt").read_text() == "000001\n"
    assert not list((tmp_path / "data").glob("*.partial"))


def test_a_devkit_that_is_there_needs_no_network(serve: Serve, tmp_path: Path) -> None:
    download_voc("2007", tmp_path, {"2007": [serve("voc.tar", {"VOCdevkit/VOC2007/a": b"x"})]})
    assert (download_voc("2007", tmp_path, {"2007": [refused()]}) / "a").read_bytes() == b"x"


def test_an_archive_placed_by_hand_needs_no_network(serve: Serve, tmp_path: Path) -> None:
    served = serve("voc.tar", {"VOCdevkit/VOC2007/a": b"x"})
    (tmp_path / "data").mkdir()
    (tmp_path / "served" / "voc.tar").rename(tmp_path / "data" / "voc.tar")
    offline = Archive(refused().url, "voc.tar", served.md5, served.size)
    assert (download_voc("2007", tmp_path / "data", {"2007": [offline]}) / "a").read_bytes() == b"x"


def test_no_network_names_the_url_and_where_to_place_the_file(tmp_path: Path) -> None:
    archive = refused()
    with pytest.raises(DownloadError) as caught:
        download_voc("2007", tmp_path, {"2007": [archive]})
    message = str(caught.value)
    assert archive.url in message
    assert f"place it at {tmp_path / 'voc.tar'}" in message
    assert "\n" not in message
    assert caught.value.exit_code == 1


def test_a_file_that_the_server_does_not_have_is_a_failed_download(serve: Serve, tmp_path: Path) -> None:
    served = serve("voc.tar", {})
    (tmp_path / "served" / "voc.tar").unlink()
    with pytest.raises(DownloadError, match=r"voc\.tar: download failed \(HTTP Error 404"):
        download_voc("2007", tmp_path / "data", {"2007": [served]})


def test_another_checksum_than_the_published_one_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    served = serve("voc.tar", {"VOCdevkit/VOC2007/a": b"x"})
    altered = Archive(served.url, served.filename, md5(b"published"), served.size)
    with pytest.raises(DownloadError, match=f"has not the published MD5 {altered.md5}"):
        download_voc("2007", tmp_path / "data", {"2007": [altered]})
    assert [path.name for path in (tmp_path / "data").iterdir() if path.suffix != ".lock"] == []


def test_an_archive_that_climbs_out_is_refused(serve: Serve, tmp_path: Path) -> None:
    archive = serve("voc.tar", {"VOCdevkit/VOC2007/a": b"x", "../../climbed": b"x"})
    with pytest.raises(InputError, match=r"not safe to unpack.*climbed"):
        download_voc("2007", tmp_path / "data", {"2007": [archive]})
    assert not list(tmp_path.rglob("climbed"))
    assert not (tmp_path / "data" / "VOCdevkit").exists()


def test_an_archive_of_something_else_is_refused(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"voc\.tar: holds no VOCdevkit/VOC2007"):
        download_voc("2007", tmp_path, {"2007": [serve("voc.tar", {"readme": b"x"})]})


def test_too_little_disk_space_is_said_before_anything_is_downloaded(tmp_path: Path) -> None:
    huge = Archive("http://127.0.0.1:9/voc.tar", "voc.tar", md5(b""), 10**18)
    with pytest.raises(InputError, match=r"needs 2,000,000,000,000,000,000 bytes of disk space .* has [\d,]+"):
        download_voc("2007", tmp_path, {"2007": [huge]})


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="voc2006: no such data set; did you mean 'voc20"):
        get_data_set("voc2006", tmp_path)


def test_the_published_archives_are_voc_2007_with_its_test_set_and_voc_2012() -> None:
    names = {year: [archive.filename for archive in archives] for year, archives in voc_archives().items()}
    assert names == {
        "2007": ["VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar"],
        "2012": ["VOCtrainval_11-May-2012.tar"],
    }


def test_the_list_tells_what_is_present_and_its_bytes(serve: Serve, tmp_path: Path) -> None:
    download_voc("2012", tmp_path, {"2012": [serve("voc.tar", {"VOCdevkit/VOC2012/a": b"12345"})]})
    found = {data.name: (data.present, data.size_bytes) for data in known_data_sets(tmp_path)}
    assert found == {"builtin:digits": (False, 0), "voc2007": (False, 0), "voc2012": (True, 5)}


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("DETPRESS_CACHE")
    assert cache_root().name == "detpress"
