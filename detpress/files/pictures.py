"""Picture files: how they are found, opened, and how large they are; decoding them is `detpress.detector.images`'s."""

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image

from detpress.errors import InputError
from detpress.files.plain import plain

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")  # in any case
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
OTHERS = {  # by where and how their files begin: what else is met under a picture's name
    "AVIF": (4, b"ftypavif"),
    "HEIC": (4, b"ftyphei"),
    "EPS": (0, b"%!PS"),
    "PDF": (0, b"%PDF"),
    "PSD": (0, b"8BPS"),
    "ICO": (0, b"\0\0\1\0"),
    "JPEG 2000": (4, b"jP  "),
    "JPEG XL": (4, b"JXL "),
    "SVG or HTML": (0, b"<"),
}
TURNED = (5, 6, 7, 8)  # the EXIF orientations by which width and height change places
HIDDEN = "."  # what file names begin with that are no part of the data, such as the `._x.txt` that macOS leaves
warnings.simplefilter("error", Image.DecompressionBombWarning)


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture, of which only the head was read.

    Raises InputError for a file that is absent or no image, and where decoding it in the block fails.
    """
    try:
        with Image.open(plain(path), formats=FORMATS) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: cannot be read as an image ({_why(path, error)})") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height as stored, without decoding. Raises InputError for a file that is absent or no image."""
    with open_picture(path) as image:
        return image.size


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height as people see a photograph, who look at it turned as its EXIF data says.

    Only JPEG's EXIF data counts: that of PNG may stand behind the pixels, which would be decoded for it.
    """
    with open_picture(path) as image:
        return (image.height, image.width) if image.format == "JPEG" and is_turned(image) else image.size


def is_turned(image: Image.Image) -> bool:
    """Whether its EXIF data says that width and height change places."""
    return image.getexif().get(ExifTags.Base.Orientation) in TURNED


def pictures_below(folder: Path) -> list[Path]:
    """All pictures at any depth, by name; hidden ones left out."""
    return files_below(folder, SUFFIXES)


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files with one of these suffixes, in any case, by name; what is hidden is left out, folders unread.

    Links to folders are followed, but for those that lead back to a folder on the way to them.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        above = {parent.resolve() for parent in (Path(place), *Path(place).parents)}
        seen = [name for name in folders if not name.startswith(HIDDEN)]
        folders[:] = [name for name in seen if Path(place, name).resolve() not in above]
        named = (Path(place, name) for name in names if not name.startswith(HIDDEN))
        found += [path for path in named if path.suffix.lower() in suffixes and path.is_file()]
    return sorted(found)


def is_hidden(path: Path, root: Path) -> bool:
    """Whether the file, or a folder on the way to it from `root`, is hidden."""
    return any(part.startswith(HIDDEN) for part in path.relative_to(root).parts)


class PictureFolders:
    """Finds pictures by their names without suffix; a folder is listed once."""

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, Path]] = {}

    def find(self, folder: Path, image: str) -> Path | None:
        """The picture `image`, which may lie in folders below `folder`; `.jpg` before other suffixes."""
        wanted = folder / f"{image}.jpg"
        if wanted.is_file():
            return wanted
        files = self._files_in(wanted.parent)
        return next((files[name] for suffix in SUFFIXES if (name := f"{wanted.stem}{suffix}") in files), None)

    def _files_in(self, folder: Path) -> dict[str, Path]:
        """By name, its suffix in small letters; of `a.png` and `a.PNG`, the first."""
        if folder not in self._listings:
            paths = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
            self._listings[folder] = {f"{path.stem}{path.suffix.lower()}": path for path in paths}
        return self._listings[folder]


def _why(path: Path, error: Exception) -> str:
    return _found(path) or getattr(error, "strerror", None) or str(error)


def _found(path: Path) -> str | None:
    """What a file is that cannot be read, where its beginning tells."""
    try:
        with plain(path).open("rb") as file:
            start = file.read(16)
    except OSError:
        return None
    found = next((name for name, (at, magic) in OTHERS.items() if start[at:].startswith(magic)), None)
    return f"found {found}; expected one of {', '.join(FORMATS)}" if found else None
