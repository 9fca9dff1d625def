"""What became of each detection, image by image: all that average precision is computed from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class at one IoU, by descending score.

    images: int64 (n,), the index of each detection's image.
    true, false: bool (n,); a detection of a difficult object is neither.
    positives: int64 (images,), the objects of each image that are not difficult.
    """

    images: NDArray[np.int64]
    true: NDArray[np.bool_]
    false: NDArray[np.bool_]
    positives: NDArray[np.int64]
