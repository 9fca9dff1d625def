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
from detpress.progress import Progress
from detpress.voc.annotation import Annotation
from detpress.voc.layout import Layout, Listed
from detpress.voc.lookalikes import difference_hashes, groups_alike
from detpress.voc.split import Split


@dataclass(frozen=True)
class SplitLayout:
    """The layout `inner` with the image sets that `split` makes, beside those of its own that it leaves."""

    inner: Layout
    split: Split
    root: Path
    progress: Progress | None = None
    _made: dict[str, list[Listed]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        split = self.split
        parts = "split" if split.folds is None else f"fold {split.fold} of {split.folds}"
        return f"{self.inner.name}, {' and '.join(map(repr, self._sources))} {parts} by seed {split.seed}"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.inner.class_names

    @property
    def set_names(self) -> tuple[str, ...]:
        return tuple(sorted({*self.inner.set_names, *self._shares} - ({*self._sources} - {*self._shares})))

    @cached_property
    def _sources(self) -> tuple[str, ...]:
        """The image sets that are split. Raises InputError where it is not clear or parts exist already."""
        there = self.inner.set_names
        if self.split.folds is not None and self.split.of is None:
            return there
        source = self.split.of or ("train" if "train" in there else there[0] if len(there) == 1 else None)
        if source is None or source not in there:
            raise InputError(f"data.split.of: expected one of the image sets: {', '.join(there) or 'there is none'}")
        for part in self._shares:
            if part in there and part != source:
                raise InputError(f"data.split: there is an image set '{part}' already; expected no share for it")
        return (source,)

    @cached_property
    def _shares(self) -> dict[str, float]:
        """The parts that are made, and the share of each."""
        test = 1 / self.split.folds if self.split.folds else self.split.test
        shares = {"train": 1 - self.split.val - test, "val": self.split.val, "test": test}
        return {part: share for part, share in shares.items() if share > 0}

    def listed(self, image_set: str) -> list[Listed]:
        if image_set not in self._shares:
            return self.inner.listed(image_set)
        if not self._made:
            listed = self._every_image()
            pictures = [self.inner.picture(self.inner.read(image)) for image in listed]
            groups = groups_alike(difference_hashes(pictures, self.root, self.progress))
            for part, indices in self._divided(groups).items():
                if not indices:
                    raise InputError(
                        f"data.split: no image is left for '{part}': of {len(listed)} images in "
                        f"{' and '.join(map(repr, self._sources))}, "
                        f"up to {max(map(len, groups))} look alike and are kept together"
                    )
                self._made[part] = [listed[i] for i in indices]
        return self._made[image_set]

    def _every_image(self) -> list[Listed]:
        """By name; one that several of the sets list, once. Raises InputError where two images have one name."""
        found: dict[str, Listed] = {}
        for image in (image for source in self._sources for image in self.inner.listed(source)):
            if (first := found.setdefault(image.image, image)).source != image.source:
                raise InputError(f"{image.place}: another image is called {image.image}, at {first.place}")
        return [found[name] for name in sorted(found)]

    def _divided(self, groups: Sequence[list[int]]) -> dict[str, list[int]]:
        """Part -> its images. Folds are dealt first, so that they are the same whatever share is `val`."""
        split = self.split
        if split.folds is None:
            return dict(zip(self._shares, divide(groups, list(self._shares.values()), split.seed), strict=True))
        folds = divide(groups, [1 / split.folds] * split.folds, split.seed)
        test = folds[split.fold or 0]
        held_out = set(test)
        left = [group for group in groups if group[0] not in held_out]
        shares = {part: share for part, share in self._shares.items() if part != "test"}
        whole = sum(shares.values())
        parts = divide(left, [share / whole for share in shares.values()], split.seed)
        return dict(zip(shares, parts, strict=True)) | {"test": test}

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
