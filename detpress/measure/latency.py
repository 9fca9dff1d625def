"""How long a runtime takes for one batch, and what is done to an image before and after."""

import os
import platform
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detpress.detector.architecture import Architecture
from detpress.detector.boxes import decode, suppress
from detpress.detector.images import place_image, read_image
from detpress.measure.energy import joules_between, read_energy
from detpress.measure.runtime import Runtime

CPUINFO = Path("/proc/cpuinfo")
WARM_UP = 3  # runs that are not counted
SECONDS = 2.0  # time for the runs that are
FEWEST, MOST = 10, 1000  # how many these are


def measure_latency(runtime: Runtime, architecture: Architecture, batch: int) -> dict[str, Any]:
    """Wall time of the network alone for one batch, from images in memory to raw maps in memory.

    Returns `median` and `p95` in milliseconds, over `repeats` runs one after the other, and what they hold for:
    `threads`, `batch` (images) and `precision`. Reading images, decoding boxes and suppression are not in it (see
    `measure_processing`). Where the processor's energy counters can be read, `joules` is what all of it, whatever else
    it did, took for a batch on average; where they cannot, the key is absent.
    """
    side = architecture.image_size
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    for _ in range(WARM_UP):
        runtime.run(images)
    seconds: list[float] = []
    before = read_energy()
    while len(seconds) < FEWEST or (sum(seconds) < SECONDS and len(seconds) < MOST):
        started = time.perf_counter()
        runtime.run(images)
        seconds.append(time.perf_counter() - started)
    used = joules_between(before, read_energy())
    found = {
        **_median_and_p95(seconds),
        "threads": runtime.threads,
        "batch": batch,
        "repeats": len(seconds),
        "precision": runtime.precision,
    }
    return found if used is None else found | {"joules": used / len(seconds)}


def measure_processing(runtime: Runtime, architecture: Architecture, paths: Sequence[Path]) -> dict[str, Any]:
    """Wall time for one image of what lies around the network, on one thread.

    paths: image files, each read once uncounted before it is timed, so that the disk's speed is not in it.
    Returns `before` (reading, decoding JPEG, resizing) and `after` (decoding boxes, suppression), each with `median`
    and `p95` in milliseconds over the `images`.
    """
    before, after = [], []
    for path in paths:
        read_image(path)
        started = time.perf_counter()
        square, _ = place_image(read_image(path), architecture.image_size, architecture.resize)
        images = square[None].float() / 255
        before.append(time.perf_counter() - started)
        with torch.inference_mode():
            maps = runtime.run(images)
            started = time.perf_counter()
            suppress(*decode(maps, architecture))
        after.append(time.perf_counter() - started)
    return {"before": _median_and_p95(before), "after": _median_and_p95(after), "images": len(paths)}


@cache
def processor() -> str:
    """What latency is measured on, such as `Intel(R) Xeon(R) Processor, 2 cores`."""
    name = platform.processor() or platform.machine()
    if CPUINFO.is_file():  # Linux, where `platform` knows the family only
        lines = (line.partition(":") for line in CPUINFO.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {os.cpu_count()} cores"


def _median_and_p95(seconds: list[float]) -> dict[str, float]:
    return {"median": 1e3 * float(np.median(seconds)), "p95": 1e3 * float(np.percentile(seconds, 95))}
