"""Data sets as recipes and the command line name them: where they lie, and in which layout."""

from collections.abc import Callable
from pathlib import Path

from detpress.builtin import BUILTIN, check_data_set
from detpress.cache import cache_root
from detpress.errors import InputError
from detpress.progress import Progress
from detpress.voc.coco_json import find_coco_json
from detpress.voc.devkit import Devkit
from detpress.voc.digits import digits_root, ensure_digits
from detpress.voc.image_sets import exists, find_image_sets
from detpress.voc.layout import Layout
from detpress.voc.split import Split
from detpress.voc.splitting import SplitLayout
from detpress.voc.xml_files import find_xml_files
from detpress.voc.yolo import find_described_yolo, find_yolo

Finder = Callable[[Path], Layout | None]
FINDERS: tuple[Finder, ...] = (find_described_yolo, find_coco_json, find_xml_files, find_yolo)  # the first counts
EXPECTED = (
    "expected Pascal VOC's folders (Annotations, JPEGImages, ImageSets/Main), XML beside the pictures, "
    "COCO's JSON, or YOLO's texts with data.yaml or classes.txt"
)


def open_data(
    root: str, classes: list[str] | None = None, split: Split | None = None, progress: Progress | None = None
) -> Devkit:
    """The data set `root`: a folder, or a built-in one, which is generated into the cache when it is not there.

    classes: the names that may occur; those that the data set names by default.
    split: makes image sets of one. progress: is told how a built-in one is made, and how pictures are compared.
    Raises InputError as the layout's reader does, for a folder that is no data set, and for an unknown built-in name.
    """
    if root.startswith(BUILTIN):
        check_data_set(root)
        folder = ensure_digits(cache_root(), progress)
    else:
        folder = Path(root)
    layout = find_layout(folder)
    if split is not None:
        layout = SplitLayout(layout, split, folder, progress)
    return Devkit(folder, layout, None if classes is None else tuple(classes))


def is_there(root: str) -> bool:
    """False for a folder that does not exist and for built-in data not generated yet."""
    return (digits_root(cache_root()) if root.startswith(BUILTIN) else Path(root)).is_dir()


def find_layout(root: Path) -> Layout:
    """The layout in which the data set lies. Pascal VOC's image sets come before all else that is there.

    Raises InputError where there is none.
    """
    if exists(root) and root.resolve() == Path(root.anchor or "/"):
        raise InputError(f"{root}: all files of this machine; expected the folder of a data set")
    if not (exists(root) and root.is_dir()):
        raise InputError(f"{root}: no such folder; {EXPECTED}")
    if (root / "ImageSets").is_dir() or any(root.glob("VOC20[0-9][0-9]")):
        return find_image_sets(root)
    for find in FINDERS:
        if layout := find(root):
            return layout
    raise InputError(f"{root}: no data set; {EXPECTED}")
