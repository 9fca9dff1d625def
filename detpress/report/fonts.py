"""Which font class names are drawn with on pictures, and what is drawn where no font has a name's letters."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:\\Windows\\Fonts",
    "~\\AppData\\Local\\Microsoft\\Windows\\Fonts",
)
KINDS = (".ttf", ".otf", ".ttc")
OF_SCORES = set("0123456789.")
IN_NO_FONT = "\U0010ffff"  # never a letter: drawn as what stands for missing ones


@dataclass(frozen=True)
class Lettering:
    """How the names of classes are written on pictures."""

    font: str | None  # a file; None: Pillow's own font
    shown: dict[str, str]  # what is drawn for each name
    numbered: dict[int, str]  # the classes of which that is the number, from 0

    def legend(self) -> str:
        """One line that says which number is which class."""
        classes = ", ".join(f"{number} is {name}" for number, name in self.numbered.items())
        return f"no font found has all letters of these classes, their numbers (from 0) are drawn: {classes}"


def choose_lettering(classes: Sequence[str]) -> Lettering:
    """Pillow's font if it has the letters of all names, else the font of the system that has those of most names.

    A name with a letter that this font lacks is drawn as its class's number; then so is a name that is a number.
    """
    chosen, lacking = None, _lacking(ImageFont.load_default(), classes)
    files = _font_files(FOLDERS) if lacking else iter(())
    while lacking and (path := next(files, None)):
        try:
            without = _lacking(ImageFont.truetype(path), classes)
        except (OSError, ValueError):  # broken, or has pictures of some sizes only
            continue
        if len(without) < len(lacking):
            chosen, lacking = str(path), without
    numbered = {
        number: name for number, name in enumerate(classes) if name in lacking or (lacking and name.isdecimal())
    }
    shown = {name: str(number) if number in numbered else name for number, name in enumerate(classes)}
    return Lettering(chosen, shown, numbered)


def _font_files(folders: Sequence[str]) -> Iterator[Path]:
    """Short file names first: those of a family's plain style."""
    roots = [os.path.expanduser(folder) for folder in folders]  # noqa: PTH111  (Path's raises where there is no home)
    found = [Path(folder, name) for root in roots for folder, _, names in os.walk(root) for name in names]
    # macOS's LastResort has one sign for all letters of a script
    fonts = [path for path in found if path.suffix.lower() in KINDS and "lastresort" not in path.stem.lower()]
    yield from sorted(fonts, key=lambda path: (len(path.name), path))


def _lacking(font: Font, classes: Sequence[str]) -> set[str]:
    """The names that the font has not all letters of; all of them if it cannot write a score."""
    missing_sign = bytes(font.getmask(IN_NO_FONT))
    letters = {letter for letter in {*OF_SCORES, *"".join(classes)} if not letter.isspace()}
    missing = {letter for letter in letters if bytes(font.getmask(letter)) == missing_sign}
    return {name for name in classes if missing & (OF_SCORES | set(name))}
