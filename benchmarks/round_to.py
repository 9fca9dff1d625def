"""What rounding the filters that pruning keeps up to multiples of 8 or 16 gains in each runtime.

    python benchmarks/round_to.py [--width 0.25] [--image-size 160] [--sparsity 0.58] [--threads 2] [--json]

YOLOv3 with the filters that nni.l1norm keeps at one sparsity with `round_to` 1, 8 and 16: at 1 the widths are irregular
(7, 14, 27, 54, ...), at 8 and 16 more filters stay. Weights are random; latency does not depend on them. The cases take
turns, round by round; a figure is the median of the network alone, batch 1. Ratios are to `round_to` 1.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import replace
from statistics import median

import torch

from detpress.adapters.inc import Scheme, quantize_static
from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.measure.size import macs, parameter_count
from detpress.runtimes.opening import open_runtime
from detpress.runtimes.runtime import Runtime

ROUND_TO = (1, 8, 16)
SECONDS = 0.5  # of a case in a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.25, help="multiplies the filters of every layer")
    parser.add_argument("--image-size", type=int, default=160, help="pixels, a multiple of 32")
    parser.add_argument("--sparsity", type=float, default=0.58, help="share of the filters taken out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    models = {round_to: pruned(options, round_to) for round_to in ROUND_TO}
    cases = {
        (what, round_to): runtime
        for round_to, model in models.items()
        for what, runtime in runtimes(model, options.threads).items()
    }
    image = torch.rand(1, 3, options.image_size, options.image_size, generator=torch.Generator().manual_seed(0))
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case, runtime in cases.items():
            seconds[case] += timed(runtime, image)
    rows = [
        {
            "runtime": what,
            "round_to": round_to,
            "milliseconds": 1e3 * median(taken),
            "ratio": median(taken) / median(seconds[what, 1]),
            "parameters": parameter_count(models[round_to].network),
            "macs": macs(models[round_to].architecture),
        }
        for (what, round_to), taken in sorted(seconds.items())
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"YOLOv3, width {options.width:g}, {options.image_size} pixels, sparsity {options.sparsity:g}, batch 1, "
        f"{options.threads} threads"
    )
    print(f"{'runtime':<24}{'round_to':>8}{'ms':>9}{'ratio':>7}{'parameters':>13}{'MMACs':>10}")
    for row in rows:
        print(
            f"{row['runtime']:<24}{row['round_to']:>8}{row['milliseconds']:9.2f}{row['ratio']:7.2f}"
            f"{row['parameters']:13,}{row['macs'] / 1e6:10,.1f}"
        )


def pruned(options: argparse.Namespace, round_to: int) -> Model:
    classes = [f"class{i}" for i in range(20)]
    whole = build_architecture("yolov3", classes, options.image_size, options.width)

    def kept(filters: int) -> int:
        wanted = filters - math.floor(options.sparsity * filters)
        return min(filters, math.ceil(wanted / round_to) * round_to)

    layers = tuple(
        replace(layer, filters=kept(layer.filters))
        if isinstance(layer, Convolution) and i not in whole.heads
        else layer
        for i, layer in enumerate(whole.layers)
    )
    model = new_model(replace(whole, layers=tuple(layers)), seed=0)
    model.network.requires_grad_(False)
    return model


def runtimes(model: Model, threads: int) -> dict[str, Runtime]:
    log = logging.getLogger("round_to")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    side = model.architecture.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    int8 = model.with_network(quantize_static(model.network, model.architecture, images, Scheme(), (), log), Form.INT8)
    names = ("onnxruntime", "openvino", "openvino-bf16")
    found = {f"{name} float": open_runtime(name, model, 1, threads) for name in names}
    return found | {f"{name} int8": open_runtime(name, int8, 1, threads) for name in names[:2]}


def timed(runtime: Runtime, image: torch.Tensor) -> list[float]:
    """Seconds of single runs, for `SECONDS` and at least three; one before is not counted."""
    runtime.run(image)
    found: list[float] = []
    while sum(found) < SECONDS or len(found) < 3:
        start = time.perf_counter()
        runtime.run(image)
        found.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    main()
