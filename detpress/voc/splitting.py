"""Image sets made from a seed, of a data set that has one alone: train, val and test, look-alikes kept together.

A photograph and its copy of another size, frames of a film that stands still: with some of them in the training set and
others in the test set, what is scored was trained on. So pictures that look alike are grouped first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from detpress.errors import InputError
from detpress.voc.annotation import Annotation
from detpress.voc.layout import Layout, Listed
from detpress.voc.lookalikes import difference_hash, groups_alike
from detpress.voc.split import Split


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
