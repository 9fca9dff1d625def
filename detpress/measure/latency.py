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
from detpress.detector.images import network_input, place_image, read_image
from detpress.measure.energy import joules_between, read_energy
from detpress.runtimes.runtime import Runtime
from detpress.runtimes.torch_runtime import torch_threads

CPUINFO = Path("/proc/cpuinfo")
WARM_UP = 3  # runs that are not counted
SECONDS = 2.0  # time for the runs that are
FEWEST, MOST = 10, 1000  # how many these are
TIMES = 4  # that all of it is measured, at most, while the machine is busy
QUIET_SPREAD = 1.5  # p95 by the median of a machine that does nothing else
QUIET_LOAD = 0.25  # cores that others may use of those that the threads need
PROCESSOR_TIMES = Path("/proc/stat")


def measure_latency(runtime: Runtime, architecture: Architecture, batch: int) -> dict[str, Any]:
    """Wall time of the network alone for one batch, from images in memory to raw maps in memory.

    Returns `median` and `p95` in milliseconds, over `repeats` runs one after the other, and what they hold for:
    `threads`, `batch` (images) and `precision`. Reading images, decoding boxes and suppression are not in it (see
    `measure_processing`). `busy` says whether other work slowed it, by the `spread` (p95 by the median) or by the cores
    that `others` used meanwhile (None where the system does not say). Where it did, all is measured again, up to
    `TIMES` times of some `SECONDS`, and the lowest median is given. Where the processor's energy counters can be read,
    `joules` is what all of it, whatever else it did, took for a batch on average; where they cannot, the key is absent.
    """
    size = architecture.input_size
    images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    for _ in range(WARM_UP):
        runtime.run(images)
    quietest: dict[str, Any] | None = None
    for _ in range(TIMES):
        found = _measure_once(runtime, images)
        if quietest is None or found["median"] < quietest["median"]:
            quietest = found
        if not quietest["busy"]:
            break
    assert quietest is not None
    return quietest | {"threads": runtime.threads, "batch": batch, "precision": runtime.precision}


def _measure_once(runtime: Runtime, images: torch.Tensor) -> dict[str, Any]:
    seconds: list[float] = []
    energy, processors, own, began = read_energy(), processor_seconds(), time.process_time(), time.perf_counter()
    while len(seconds) < FEWEST or (sum(seconds) < SECONDS and len(seconds) < MOST):
        started = time.perf_counter()
        runtime.run(images)
        seconds.append(time.perf_counter() - started)
    passed, own = time.perf_counter() - began, time.process_time() - own
    used = joules_between(energy, read_energy())
    others = None if processors is None else max(0.0, ((processor_seconds() or 0.0) - processors - own) / passed)
    figures = _median_and_p95(seconds)
    found: dict[str, Any] = {
        **figures,
        "spread": figures["p95"] / figures["median"],
        "others": others,
        "busy": was_busy(figures["p95"] / figures["median"], others, runtime.threads, os.cpu_count() or 1),
        "repeats": len(seconds),
    }
    return found if used is None else found | {"joules": used / len(seconds)}


def was_busy(spread: float, others: float | None, threads: int, cores: int) -> bool:
    """Whether something else slowed what was timed.

    spread: p95 by median of the repetitions; others: cores that other processes used meanwhile, None where not known.
    """
    return spread > QUIET_SPREAD or (others is not None and others > max(0, cores - threads) + QUIET_LOAD)


def processor_seconds(path: Path = PROCESSOR_TIMES) -> float | None:
    """What all cores have worked since the machine started, as Linux counts it; None where it does not."""
    try:
        user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, path.read_text().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def measure_processing(runtime: Runtime, architecture: Architecture, paths: Sequence[Path]) -> dict[str, Any]:
    """Wall time for one image of what lies around the network, on one thread.

    paths: image files, each read once uncounted before it is timed, so that the disk's speed is not in it.
    Returns `before` (reading, decoding JPEG, resizing) and `after` (decoding boxes, suppression), each with `median`
    and `p95` in milliseconds over the `images`.
    """
    before, after = [], []
    with torch.inference_mode(), torch_threads(1):
        for path in paths:
            read_image(path)
            started = time.perf_counter()
            square, _ = place_image(read_image(path), architecture.input_size, architecture.resize)
            images = network_input(square[None])
            before.append(time.perf_counter() - started)
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
