"""Anchor boxes by k-means on the training boxes, with 1 - IoU as the distance.

Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", arXiv:1612.08242, section 2, "Dimension Clusters". A
cluster's centre is its mean; the iteration ends when no box changes its cluster. The start is drawn from the boxes by
the seed, since the paper does not say how it starts.
"""

import numpy as np
from numpy.typing import NDArray

from detpress.errors import InputError

ROUNDS = 300  # at most: with this distance the iteration is not bound to settle


def kmeans_anchors(sizes: NDArray[np.float64], count: int, seed: int) -> list[tuple[float, float]]:
    """sizes: float64 (n, 2), widths and heights in pixels of the input. `count` anchors, from small to large.

    Raises InputError where there are fewer different sizes than anchors.
    """
    different = np.unique(sizes, axis=0)
    if len(different) < count:
        raise InputError(f"{len(different)} different box sizes in the training set are too few for {count} anchors")
    centres = np.random.default_rng(seed).choice(different, count, replace=False)
    owner = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        smaller = np.minimum(sizes[:, None], centres[None]).prod(axis=2)
        iou = smaller / (sizes.prod(axis=1)[:, None] + centres.prod(axis=1)[None] - smaller)
        nearest = iou.argmax(axis=1)
        if (nearest == owner).all():
            break
        owner = nearest
        for i in range(count):
            if (owner == i).any():
                centres[i] = sizes[owner == i].mean(axis=0)
    ordered = centres[np.argsort(centres.prod(axis=1))]
    return [(round(float(w), 2), round(float(h), 2)) for w, h in ordered]
