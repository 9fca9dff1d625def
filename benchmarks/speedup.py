"""nni.speedup with detpress' settings beside NNI's defaults, on one masked YOLOv3 of random weights.

    python benchmarks/speedup.py [--width 1.0] [--image-size 416] [--sparsity 0.5] [--json]

NNI finds what can be taken out by running the network on random images, 8 at the real size by default; detpress gives
it 2 of 64 pixels. Every case has a process of its own, one after the other. Seconds are of the speedup alone (imports,
network and masks come before); memory is the process's peak resident set, PyTorch and NNI included. At full size NNI's
defaults need about 19 GB.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from typing import Any

TRACER = "NNI's defaults and its own tracer"
CASES = {  # pixels (None: the real size), images
    "detpress: 64 pixels, 2 images": (64, 2),
    "real size, 2 images": (None, 2),
    "NNI's defaults: real size, 8 images": (None, 8),
    TRACER: (None, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the filters of every layer (default 1)")
    parser.add_argument("--image-size", type=int, default=416, help="pixels, a multiple of 32 (default 416)")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of the filters masked (default 0.5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options)))
        return
    rows = {case: in_own_process(case) for case in CASES}
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    ours = next(iter(rows.values()))
    print(f"YOLOv3, width {options.width:g}, {options.image_size} pixels, {options.sparsity:.0%} of the filters masked")
    print(f"{'':<38}{'seconds':>9}{'x ours':>8}{'peak GB':>9}{'x ours':>8}{'parameters':>12}  largest difference")
    for case, row in rows.items():
        if "error" in row:
            print(f"{case:<38}  fails: {row['error']}")
            continue
        seconds, memory = row["seconds"], row["peak_memory_bytes"]
        print(
            f"{case:<38}{seconds:9.1f}{seconds / ours['seconds']:8.1f}{memory / 1e9:9.2f}"
            f"{memory / ours['peak_memory_bytes']:8.1f}{row['parameters']:12,}  {row['largest_difference']:.1e}"
        )


def in_own_process(case: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, *sys.argv, "--case", case], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"error": f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from detpress.adapters import nni_speedup
    from detpress.detector.architecture import build_architecture
    from detpress.detector.form import Form
    from detpress.detector.model import new_model
    from detpress.plugins.nni_prune import L1Norm
    from detpress.plugins.nni_prune_options import FilterPruning
    from detpress.plugins.nni_speedup import largest_difference

    architecture = build_architecture("yolov3", [f"class{i}" for i in range(20)], options.image_size, options.width)
    masked = L1Norm().plan(new_model(architecture, seed=0), FilterPruning(sparsity=options.sparsity)).model
    log = logging.getLogger("speedup")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    pixels, images = CASES[options.case]
    pixels = pixels or options.image_size
    start = time.perf_counter()
    if options.case == TRACER:
        masks = {name.removesuffix(".weight"): {"weight": mask.float()} for name, mask in masked.masks.items()}
        try:
            nni_speedup.ModelSpeedup(masked.network, torch.rand(images, 3, pixels, pixels), masks).speedup_model()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"}
        raise SystemExit("NNI's tracer works here: measure it as the others are")
    nni_speedup.SPEEDUP_PIXELS, nni_speedup.SPEEDUP_IMAGES = pixels, images
    smaller = nni_speedup.speed_up(masked.network, architecture, masked.masks, log)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "peak_memory_bytes": peak,
        "parameters": sum(parameter.numel() for parameter in smaller.parameters()),
        "largest_difference": largest_difference(masked, masked.with_network(smaller, Form.DENSE)),
    }


if __name__ == "__main__":
    main()
