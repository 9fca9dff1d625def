"""Pascal VOC's own archives, downloaded and checked by torchvision; a half-unpacked devkit is never visible."""

import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from filelock import FileLock

from detpress.cache import cache_root
from detpress.errors import DetpressError, InputError, nearest
from detpress.progress import Progress
from detpress.voc.digits import digits_root, ensure_digits


class DownloadError(DetpressError):
    """An archive could not be fetched, or what was fetched is not the published file."""


@dataclass(frozen=True)
class Archive:
    """A tar file on the web, its MD5 checksum, and its size in bytes."""

    url: str
    filename: str
    md5: str
    size: int


@dataclass(frozen=True)
class DataSet:
    """A data set that detpress knows: where it is or would be, and the bytes of its files there (0 when absent)."""

    name: str
    description: str
    path: Path
    present: bool
    size_bytes: int


# Content-Length of the files at the URLs that torchvision names; VOC's tar files are not compressed.
SIZES = {"2007": 460_032_000, "2007-test": 451_020_800, "2012": 1_999_639_040}


def get_data_set(name: str, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Make or fetch `digits`, `voc2007` or `voc2012` below `root` (the cache by default); the folder for `data.root`.

    progress: is told how the digits are made.
    Raises InputError for an unknown name, and as `download_voc` does.
    """
    folder = cache_root() if root is None else root
    if name in ("digits", "builtin:digits"):
        return ensure_digits(folder, progress)
    years = {f"voc{year}": year for year in voc_archives()}
    if name not in years:
        raise InputError(f"{name}: no such data set; {nearest(name, ['digits', *years])}")
    return download_voc(years[name], folder)


def known_data_sets(root: Path | None = None) -> list[DataSet]:
    """Every data set that `get_data_set` takes, and what of it is below `root` (the cache by default)."""
    folder = cache_root() if root is None else root
    places = [
        (
            "builtin:digits",
            "handwritten digits on photographs, generated; 10 classes, 160x160 pixels",
            digits_root(folder),
        ),
        ("voc2007", "Pascal VOC 2007: train, val and test; 20 classes", devkit_path("2007", folder)),
        ("voc2012", "Pascal VOC 2012: train and val; 20 classes", devkit_path("2012", folder)),
    ]
    return [DataSet(name, text, path, path.is_dir(), bytes_below(path)) for name, text, path in places]


def voc_archives() -> dict[str, list[Archive]]:
    """The archives of each year, as torchvision's VOC data set names them; 2007 with the published test set."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # imports torch

    def archive(key: str) -> Archive:
        entry = DATASET_YEAR_DICT[key]
        return Archive(entry["url"], entry["filename"], entry["md5"], SIZES[key])

    return {"2007": [archive("2007"), archive("2007-test")], "2012": [archive("2012")]}


def devkit_path(year: str, root: Path) -> Path:
    """Where `download_voc` puts a year's devkit."""
    return root / "VOCdevkit" / f"VOC{year}"


def download_voc(year: str, root: Path, sources: Mapping[str, list[Archive]] | None = None) -> Path:
    """Download and unpack a year's archives below `root`; the devkit's folder, at once when it is there already.

    An archive that lies in `root` with the right checksum is not downloaded, and none is deleted.
    Raises DownloadError, and InputError for too little disk space or an unsafe archive.
    """
    archives = (voc_archives() if sources is None else sources)[year]
    devkit = devkit_path(year, root)
    if devkit.is_dir():
        return devkit
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"voc{year}.lock"):
        if devkit.is_dir():
            return devkit
        require_space(root, archives)
        for archive in archives:
            fetch(archive, root)
        with tempfile.TemporaryDirectory(prefix=f"voc{year}-", suffix=".partial", dir=root) as scratch:
            for archive in archives:
                unpack(root / archive.filename, Path(scratch))
            made = devkit_path(year, Path(scratch))
            if not made.is_dir():
                raise InputError(f"{root / archives[-1].filename}: holds no VOCdevkit/VOC{year}")
            devkit.parent.mkdir(exist_ok=True)
            made.rename(devkit)
    return devkit


def require_space(root: Path, archives: list[Archive]) -> None:
    """Refuse to start a download that the disk cannot hold: the archives' missing bytes, and the files in them."""
    paths = [root / archive.filename for archive in archives]
    needed = 2 * sum(archive.size for archive in archives) - sum(path.stat().st_size for path in paths if path.exists())
    free = shutil.disk_usage(root).free
    if free < needed:
        raise InputError(f"{root}: needs {needed:,} bytes of disk space for the archives and their files, has {free:,}")


def fetch(archive: Archive, root: Path) -> None:
    """Put the archive into `root`, unless it is there with the right checksum."""
    from torchvision.datasets.utils import download_url  # imports torch

    path = root / archive.filename
    by_hand = f"or download it by other means, place it at {path}, and run the same command again"
    try:
        download_url(archive.url, root, archive.filename, archive.md5)
    except (OSError, HTTPException) as error:
        found = f" (what is at {path} is not the published file)" if path.exists() else ""
        raise DownloadError(
            f"{archive.url}: download failed ({error}){found}; check the connection, {by_hand}"
        ) from error
    except RuntimeError as error:  # what torchvision raises for a wrong checksum
        path.unlink(missing_ok=True)
        raise DownloadError(
            f"{archive.url}: the downloaded file has not the published MD5 {archive.md5} and was removed; "
            f"try again, {by_hand}"
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar file into `folder`. torchvision's own extraction lets members write outside; this refuses them."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise InputError(f"{archive}: refused, a member is not safe to unpack ({error})") from error
    except tarfile.TarError as error:
        raise InputError(f"{archive}: cannot be read as a tar file ({error})") from error


def bytes_below(folder: Path) -> int:
    """The sizes of all files below a folder, summed; 0 for one that is absent."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
