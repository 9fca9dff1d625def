"""Convolutions of signs by signs, bits counted by OpenVINO, beside the same network in float.

    python benchmarks/binary.py [--width 0.25] [--image-size 256] [--threads 1] [--json]

YOLOv3 with weights and inputs of one bit in all convolutions but the first and those that give the raw maps. Weights
are random; latency does not depend on them. The cases take turns, round by round; a figure is of single runs of the
network alone, batch 1: the fastest of them, which a busy machine spoils least, and the median.
"""

import argparse
import json
import time
from statistics import median

import torch

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import weight_name, with_encoded
from detpress.encodings.binary import BinaryInputs, packed_signs
from detpress.runtimes.opening import open_runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.25, help="multiplies the filters of every layer")
    parser.add_argument("--image-size", type=int, default=256, help="pixels, a multiple of 32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    model = new_model(build_architecture("yolov3", ["a", "b", "c"], options.image_size, options.width), seed=0)
    models = {"float": model, "binary": of_signs(model, False), "binary, input scale": of_signs(model, True)}
    runtimes = {what: open_runtime("openvino", one, 1, options.threads) for what, one in models.items()}
    image = torch.rand(1, 3, options.image_size, options.image_size, generator=torch.Generator().manual_seed(0))
    taken: dict[str, list[float]] = {what: [] for what in runtimes}
    for _ in range(options.rounds):
        for what, runtime in runtimes.items():
            start = time.perf_counter()
            runtime.run(image)
            taken[what].append(1e3 * (time.perf_counter() - start))
    fastest = {what: min(times) for what, times in taken.items()}
    rows = [
        {
            "network": what,
            "precision": runtimes[what].precision,
            "fastest_ms": fastest[what],
            "median_ms": median(times),
            "ratio": fastest[what] / fastest["float"],
        }
        for what, times in taken.items()
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"YOLOv3, width {options.width:g}, {options.image_size} pixels, batch 1, {options.threads} threads, OpenVINO")
    print(f"{'network':<22}{'precision':<14}{'fastest ms':>11}{'median ms':>11}{'ratio':>7}")
    for row in rows:
        print("{network:<22}{precision:<14}{fastest_ms:11.2f}{median_ms:11.2f}{ratio:7.2f}".format(**row))


def of_signs(model: Model, input_scale: bool) -> Model:
    network = model.own_network
    encoded = {}
    for i in list(model.encodings)[1:]:
        if i not in model.architecture.heads:
            weight = network.get_parameter(weight_name(i))
            scale = torch.full((len(weight),), weight[0].numel() ** -0.5)
            tensors = {"signs": packed_signs(weight), "scale": scale, "bias": torch.zeros(len(weight))}
            encoded[i] = BinaryInputs(input_scale), tensors
    return model.with_network(with_encoded(network, encoded), Form.SIMULATED)


if __name__ == "__main__":
    main()
