"""Image sets made from a seed, of a data set that has one alone: train, val and test, look-alikes kept together.

A photograph and its copy of another size, frames of a film that stands still: with some of them in the training set and
others in the test set, what is scored was trained on. So pictures are grouped first, by their difference hash: shrunk
to 17 x 16 greys, each is compared with its right neighbour, which gives 256 bits that size, compression and brightness
hardly change (N. Krawetz, "Kind of Like That", hackerfactor.com, 2013, with 64 bits). Two pictures are look-alikes
where at most `ALIKE` bits differ, and a group holds all that look-alikes connect.

Measured on 80 photographs of Pascal VOC 2007: of copies of half the size at most 22 bits differ, of JPEG's quality 30
at most 20 in 95 of 100, of another brightness 17; without a margin of 2 %, 30 or more in half of them. Of 1,124,250
pairs of 1,500 photographs 3 differ in 24 or less.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detpress.errors import InputError
from detpress.files.pictures import open_picture
from detpress.voc.annotation import Annotation
from detpress.voc.layout import Layout, Listed
from detpress.voc.split import Split

SIDE = 16  # of the hash, whose bits are its square
ALIKE = 24  # bits
PAIRS = 2**22  # compared at a time, which bounds the memory


@dataclass(frozen=True)
class SplitLayout:
    """The layout `inner` with the image sets that `split` makes, beside those of its own that it leaves."""

    inner: Layout
    split: Split
    _made: dict[str, list[Listed]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return f"{self.inner.name}, '{self._source}' split by seed {self.split.seed}"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.inner.class_names

    @property
    def set_names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.inner.set_names, *self._shares} - ({self._source} - {*self._shares})))

    @cached_property
    def _source(self) -> str:
        """The image set that is split. Raises InputError where it is not clear or parts exist already."""
        there = self.inner.set_names
        source = self.split.of or ("train" if "train" in there else there[0] if len(there) == 1 else None)
        if source is None or source not in there:
            raise InputError(f"data.split.of: expected one of the image sets: {', '.join(there) or 'there is none'}")
        for part in self._shares:
            if part in there and part != source:
                raise InputError(f"data.split: there is an image set '{part}' already; expected no share for it")
        return source

    @cached_property
    def _shares(self) -> dict[str, float]:
        """The parts that are made, and the share of each."""
        shares = {"train": 1 - self.split.val - self.split.test, "val": self.split.val, "test": self.split.test}
        return {part: share for part, share in shares.items() if share > 0}

    def listed(self, image_set: str) -> list[Listed]:
        if image_set not in self._shares:
            return self.inner.listed(image_set)
        if not self._made:
            listed = sorted(self.inner.listed(self._source), key=lambda image: image.image)
            hashes = np.stack([difference_hash(self.inner.picture(self.inner.read(image))) for image in listed])
            groups = groups_alike(hashes)
            parts = divide(groups, list(self._shares.values()), self.split.seed)
            for part, indices in zip(self._shares, parts, strict=True):
                if not indices:
                    raise InputError(
                        f"data.split: no image is left for '{part}': of {len(listed)} images in '{self._source}', "
                        f"up to {max(map(len, groups))} look alike and are kept together"
                    )
                self._made[part] = [listed[i] for i in indices]
        return self._made[image_set]

    def read(self, listed: Listed) -> Annotation:
        return self.inner.read(listed)

    def picture(self, annotation: Annotation) -> Path:
        return self.inner.picture(annotation)

    def digest(self, annotation: Annotation) -> str:
        return self.inner.digest(annotation)


def difference_hash(path: Path) -> NDArray[np.uint64]:
    """uint64 (4,). Raises InputError for a picture that cannot be read."""
    with open_picture(path) as image:
        image.draft("L", (8 * SIDE, 8 * SIDE))  # of JPEG, which is decoded no larger than need be
        small = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)


def groups_alike(hashes: NDArray[np.uint64]) -> list[list[int]]:
    """hashes: (n, 4) -> the indices of each group of look-alikes, ascending, groups by their first index."""
    unique, where = np.unique(hashes, axis=0, return_inverse=True)
    where = where.reshape(-1)
    first = list(range(len(unique)))  # of each hash, one of its group: in the end the first

    def find(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    step = max(1, PAIRS // len(unique))
    for start in range(0, len(unique), step):
        differing = np.bitwise_count(unique[start : start + step, None] ^ unique[None]).sum(axis=-1, dtype=np.int16)
        for i, j in zip(*np.nonzero(differing <= ALIKE), strict=True):
            one, other = sorted((find(start + int(i)), find(int(j))))
            first[other] = one
    groups: dict[int, list[int]] = {}
    for index, place in enumerate(where.tolist()):
        groups.setdefault(find(place), []).append(index)
    return list(groups.values())


def divide(groups: Sequence[list[int]], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Each group to one part, so that the parts have about their shares of all; indices ascending.

    In the order of the seed, large groups first, a group goes where most is missing.
    """
    total = sum(map(len, groups))
    order = np.random.default_rng(seed).permutation(len(groups))
    parts: list[list[int]] = [[] for _ in shares]
    for group in sorted((groups[i] for i in order), key=len, reverse=True):
        missing = [share * total - len(part) for share, part in zip(shares, parts, strict=True)]
        parts[missing.index(max(missing))] += group
    return [sorted(part) for part in parts]
