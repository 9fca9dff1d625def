"""The one place that converts between VOC's coordinates and edges.

VOC counts pixels from 1 and names the first and the last one that belong to a box: xmin = 1, xmax = 1 is a box one
pixel wide. Everywhere else in detpress a box is given by its edges, counted from 0: that box is x0 = 0, x1 = 1.
"""

import numpy as np
from numpy.typing import NDArray

_SHIFT = np.array([1, 1, 0, 0])  # whole numbers, so that boxes in whole numbers stay such


def edges_from_voc(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """boxes: (n, 4) as xmin, ymin, xmax, ymax -> (n, 4) as x0, y0, x1, y1."""
    return np.asarray(boxes - _SHIFT)


def voc_from_edges(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `edges_from_voc`."""
    return np.asarray(boxes + _SHIFT)
