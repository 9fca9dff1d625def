"""`builtin:digits`: a small VOC devkit, generated into the user's cache from what scikit-learn ships.

Handwritten digits (UCI Optical Recognition of Handwritten Digits, 1,797 of 8x8 pixels) are enlarged, coloured and
pasted on crops of scikit-learn's two photographs (china.jpg and flower.jpg, CC BY 2.0). The three image sets share
neither a digit nor a part of a photograph. The same installation writes the same bytes every time; another version of
NumPy or Pillow may write others.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from detpress.progress import Progress
from detpress.voc.coordinates import voc_from_edges

VERSION = 1  # raise it with every change of what is drawn
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTS = {"train": 2000, "val": 300, "test": 500}
SIDE = 160  # pixels of an image

# Shares of each class's digits, and columns of both photographs (640 wide), by image set.
DIGIT_SHARES = {"train": (0.0, 0.7), "val": (0.7, 0.8), "test": (0.8, 1.0)}
PHOTO_COLUMNS = {"train": (0, 320), "val": (320, 480), "test": (480, 640)}

HEIGHTS = (25, 60)  # pixels of a digit
CONTRAST = 130  # least distance in RGB (of 441) from nine tenths of what lies below a digit
INK = 96  # opacity (of 255) from which a pixel counts as the digit's
BOX_OVERLAP = 0.15  # most of the smaller of two boxes that may lie in the other
HIDING_SHARE = 0.05  # of digits pasted over an earlier one on purpose
CUT_SHARE = 0.05  # of digits allowed to reach over the border
LEAST_VISIBLE = 0.3  # of a digit's ink, always
DIFFICULT_BELOW = 0.65  # visible share of a digit's ink
ATTEMPTS = 40  # places tried for a digit before it is left out


@dataclass(frozen=True)
class Source:
    """What one image set is made from: grey digits (8, 8) uint8 by class, and parts of photographs."""

    digits: list[list[NDArray[np.uint8]]]
    photos: list[Image.Image]


@dataclass
class Pasted:
    """A digit in an image: its class index, all of its ink in pixels, and its box as x0, y0, x1, y1 edges."""

    label: int
    ink: int
    box: tuple[int, int, int, int]


def digits_root(cache: Path) -> Path:
    """Where `ensure_digits` puts the devkit."""
    return cache / f"digits-{VERSION}"


def ensure_digits(cache: Path, progress: Progress | None = None, counts: Mapping[str, int] = COUNTS) -> Path:
    """The devkit's root below `cache`; generated when absent, of another version, or with files missing."""
    root = digits_root(cache)
    if is_complete(root, counts):
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "digits.lock"):
        if not is_complete(root, counts):
            with tempfile.TemporaryDirectory(prefix="digits-", suffix=".partial", dir=cache) as scratch:
                made = Path(scratch) / "devkit"
                write_digits(made, counts, progress=progress)
                if root.exists():
                    shutil.rmtree(root)
                made.rename(root)
    return root


def is_complete(root: Path, counts: Mapping[str, int]) -> bool:
    """Whether no image, annotation or image set has been removed; a cache may be emptied by others, file by file."""
    total = sum(counts.values())
    expected = {"JPEGImages": total, "Annotations": total, "ImageSets/Main": len(counts) + 1}
    return all((root / name).is_dir() and len(list((root / name).iterdir())) == n for name, n in expected.items())


def write_digits(
    root: Path, counts: Mapping[str, int] = COUNTS, seed: int = 0, progress: Progress | None = None
) -> None:
    """Write the devkit to `root`, a new folder: `counts` images of each image set, numbered through."""
    names = iter(f"{number:06d}" for number in range(1, sum(counts.values()) + 1))
    members = {split: [next(names) for _ in range(count)] for split, count in counts.items()}
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stream, (split, source) in enumerate(read_sources(seed).items()):
        for index, name in enumerate(members.get(split, [])):
            image, objects = compose(np.random.default_rng([seed, stream, index]), source)
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
            (root / "Annotations" / f"{name}.xml").write_text(annotation(name, objects), encoding="utf-8")
            if progress is not None:
                progress(f"digits {split}", index + 1, counts[split])
    members["trainval"] = members.get("train", []) + members.get("val", [])
    for split, listed in members.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))


def read_sources(seed: int) -> dict[str, Source]:
    """Deal scikit-learn's digits, class by class, and the columns of its photographs to the image sets."""
    from sklearn.datasets import load_digits, load_sample_images  # a second of imports, for this function only

    loaded = load_digits()
    grey = np.minimum(loaded.images * 16, 255).astype(np.uint8)
    order = np.random.default_rng([seed, len(DIGIT_SHARES)])
    by_class = [order.permutation(np.flatnonzero(loaded.target == label)) for label in range(len(CLASSES))]
    photos = load_sample_images().images
    return {
        split: Source(
            digits=[[grey[i] for i in of[round(low * len(of)) : round(high * len(of))]] for of in by_class],
            photos=[Image.fromarray(photo[:, slice(*PHOTO_COLUMNS[split])]) for photo in photos],
        )
        for split, (low, high) in DIGIT_SHARES.items()
    }


def compose(
    random: np.random.Generator, source: Source
) -> tuple[NDArray[np.uint8], list[tuple[str, int, int, list[int]]]]:
    """One image, uint8 (160, 160, 3), and its objects: (class, truncated, difficult, box in VOC coordinates)."""
    canvas = background(random, source.photos)
    owner = np.full((SIDE, SIDE), -1, np.int8)  # which digit's ink is on top
    pasted: list[Pasted] = []
    for _ in range(random.integers(1, 6)):
        label = int(random.integers(len(CLASSES)))
        digits = source.digits[label]
        opacity = enlarge(random, digits[random.integers(len(digits))])
        place = find_place(random, opacity >= INK, pasted, owner)
        if place is None:
            continue
        x0, y0, height, width = *place, *opacity.shape
        inner = np.s_[max(y0, 0) : y0 + height, max(x0, 0) : x0 + width]
        visible = opacity[max(-y0, 0) : SIDE - y0, max(-x0, 0) : SIDE - x0]
        share = visible[..., None] / np.float32(255)
        canvas[inner] = canvas[inner] * (1 - share) + contrasting_colour(random, canvas[inner]) * share
        owner[inner][visible >= INK] = len(pasted)
        pasted.append(Pasted(label, int((opacity >= INK).sum()), (x0, y0, x0 + width, y0 + height)))

    objects = []
    for index, digit in enumerate(pasted):
        rows, columns = np.nonzero(owner == index)
        truncated = min(digit.box[:2]) < 0 or max(digit.box[2:]) > SIDE
        difficult = len(rows) < DIFFICULT_BELOW * digit.ink
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        objects.append((CLASSES[digit.label], int(truncated), int(difficult), voc_from_edges(edges).tolist()))
    return canvas.round().astype(np.uint8), objects


def background(random: np.random.Generator, photos: list[Image.Image]) -> NDArray[np.float32]:
    """A square of a photograph, 80 to 160 pixels wide, enlarged to float32 (160, 160, 3) in [0, 255]."""
    photo = photos[random.integers(len(photos))]
    side = int(random.integers(SIDE // 2, SIDE + 1))
    left = int(random.integers(photo.width - side + 1))
    top = int(random.integers(photo.height - side + 1))
    square = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square, np.float32)


def enlarge(random: np.random.Generator, digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey (8, 8) -> opacity, uint8 (height, width) in [0, 255], cut to its ink, of a random height and aspect."""
    low, high = HEIGHTS
    height = int(np.exp(random.uniform(np.log(low), np.log(high))))
    width = round(height * random.uniform(0.85, 1.15))
    smooth = np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC), np.int32)
    opacity = np.clip((smooth - 60) * 3 // 2, 0, 255).astype(np.uint8)  # paper clear, strokes shaded as written
    rows, columns = np.nonzero(opacity >= INK)
    return opacity[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def find_place(
    random: np.random.Generator, ink: NDArray[np.bool_], pasted: list[Pasted], owner: NDArray[np.int8]
) -> tuple[int, int] | None:
    """The left and top edge for a digit (height, width), negative where the border cuts it; None when none is free."""
    height, width = ink.shape
    hide = bool(pasted) and random.random() < HIDING_SHARE
    reach = 0.35 if random.random() < CUT_SHARE else 0.0
    beyond_x, beyond_y = int(reach * width), int(reach * height)
    for _ in range(ATTEMPTS):
        x0 = int(random.integers(-beyond_x, SIDE - width + beyond_x + 1))
        y0 = int(random.integers(-beyond_y, SIDE - height + beyond_y + 1))
        inside = ink[max(-y0, 0) : SIDE - y0, max(-x0, 0) : SIDE - x0]
        if inside.sum() < LEAST_VISIBLE * ink.sum():
            continue
        below = owner[max(y0, 0) : y0 + height, max(x0, 0) : x0 + width][inside]
        covered = [(below == index).sum() for index in range(len(pasted))]
        visible = [((owner == i).sum() - covered[i]) / digit.ink for i, digit in enumerate(pasted)]
        if min(visible, default=1) < LEAST_VISIBLE:
            continue
        box = (x0, y0, x0 + width, y0 + height)
        if hide:
            accepted = min(visible) < DIFFICULT_BELOW
        else:
            accepted = all(box_overlap(box, digit.box) <= BOX_OVERLAP for digit in pasted)
        if accepted:
            return x0, y0
    return None


def box_overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Which share of the smaller box lies in the other."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def contrasting_colour(random: np.random.Generator, patch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A random RGB colour at least CONTRAST from most of patch (h, w, 3), or the farthest of a dozen."""
    colours = random.integers(0, 256, (12, 3)).astype(np.float32)
    pixels = patch[::3, ::3].reshape(-1, 1, 3)
    distances = np.quantile(np.sqrt(((pixels - colours) ** 2).sum(2)), 0.1, axis=0)
    far = np.flatnonzero(distances >= CONTRAST)
    chosen: NDArray[np.float32] = colours[far[0] if len(far) else distances.argmax()]
    return chosen


def annotation(name: str, objects: list[tuple[str, int, int, list[int]]]) -> str:
    """The image's XML, as VOC 2007 writes it."""
    parts = [
        f"<annotation>\n\t<folder>digits</folder>\n\t<filename>{name}.jpg</filename>\n"
        f"\t<size>\n\t\t<width>{SIDE}</width>\n\t\t<height>{SIDE}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        "\t<segmented>0</segmented>\n"
    ]
    for label, truncated, difficult, (xmin, ymin, xmax, ymax) in objects:
        parts.append(
            f"\t<object>\n\t\t<name>{label}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>{truncated}</truncated>\n\t\t<difficult>{difficult}</difficult>\n"
            f"\t\t<bndbox>\n\t\t\t<xmin>{xmin}</xmin>\n\t\t\t<ymin>{ymin}</ymin>\n"
            f"\t\t\t<xmax>{xmax}</xmax>\n\t\t\t<ymax>{ymax}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        )
    return "".join(parts) + "</annotation>\n"
