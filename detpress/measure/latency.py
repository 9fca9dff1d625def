"""How long a runtime takes for one batch."""

import time
from typing import Any

import numpy as np
import torch

from detpress.detector.architecture import Architecture
from detpress.measure.runtime import Runtime

WARM_UP = 3  # runs that are not counted
SECONDS = 2.0  # time for the runs that are
FEWEST, MOST = 10, 1000  # how many these are


def measure_latency(runtime: Runtime, architecture: Architecture, batch: int) -> dict[str, Any]:
    """Wall time of the network alone for one batch, from images in memory to raw maps in memory.

    Returns `median` and `p95` in milliseconds, over `repeats` runs one after the other, and what they hold for:
    `threads`, `batch` (images) and `precision`. Reading images, decoding boxes and suppression are not in it.
    """
    side = architecture.image_size
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    for _ in range(WARM_UP):
        runtime.run(images)
    seconds: list[float] = []
    while len(seconds) < FEWEST or (sum(seconds) < SECONDS and len(seconds) < MOST):
        started = time.perf_counter()
        runtime.run(images)
        seconds.append(time.perf_counter() - started)
    return {
        "median": 1e3 * float(np.median(seconds)),
        "p95": 1e3 * float(np.percentile(seconds, 95)),
        "threads": runtime.threads,
        "batch": batch,
        "repeats": len(seconds),
        "precision": runtime.precision,
    }
