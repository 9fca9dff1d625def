"""Anchors are the means of the groups that box sizes form."""

import numpy as np
import pytest

from detpress.detector.anchors import kmeans_anchors
from detpress.errors import InputError

CENTRES = [(8.0, 20.0), (40.0, 12.0), (90.0, 100.0)]


def sizes_around(centres: list[tuple[float, float]]) -> np.ndarray:
    """Twenty sizes within 5 % of each centre, symmetric, so that their mean is the centre."""
    spread = np.linspace(-0.05, 0.05, 20)[:, None]
    return np.concatenate([np.array(centre) * (1 + spread) for centre in centres])


@pytest.mark.parametrize("seed", range(5))
def test_separate_groups_give_their_means_from_small_to_large(seed: int) -> None:
    anchors = kmeans_anchors(np.array([(10, 20), (60, 30)], dtype=float).repeat(5, axis=0), 2, seed)
    assert anchors == [(10, 20), (60, 30)]


def test_every_anchor_is_the_mean_of_the_boxes_nearest_to_it() -> None:
    sizes = sizes_around(CENTRES)
    anchors = np.array(kmeans_anchors(sizes, 3, seed=0))
    smaller = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    iou = smaller / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - smaller)
    owner = iou.argmax(axis=1)
    for i, anchor in enumerate(anchors):
        assert sizes[owner == i].mean(axis=0) == pytest.approx(anchor, abs=0.01)
    assert list(anchors.prod(axis=1)) == sorted(anchors.prod(axis=1))


def test_the_same_seed_gives_the_same_anchors() -> None:
    sizes = np.random.default_rng(1).uniform(5, 100, (300, 2))
    assert kmeans_anchors(sizes, 9, seed=4) == kmeans_anchors(sizes, 9, seed=4)


def test_fewer_sizes_than_anchors_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 different box sizes .* too few for 9 anchors"):
        kmeans_anchors(np.array([(10, 20), (10, 20), (30, 30)], dtype=float), 9, seed=0)
