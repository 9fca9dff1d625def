"""OpenVINO's convolution of bits by bits beside its float one: exact or not, and how long.

    python benchmarks/binary.py [--json]

Single convolutions of signs by signs, one image, one thread. The operator, BinaryConvolution, packs weights and inputs
into bits and counts equal ones; ONNX has none such. `off`: the largest difference to PyTorch's float sums. The two take
turns; the figure is the fastest of the runs, which a busy machine spoils least.
"""

import argparse
import json
import time

import numpy as np
import openvino
import torch
from openvino import opset1, opset13
from torch.nn import functional

LAYERS = [(64, 128, 3, 20), (256, 256, 3, 20), (256, 128, 1, 20), (12, 24, 3, 20)]  # channels, filters, kernel, side
RUNS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = [row(*layer) for layer in LAYERS]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for found in rows:
        print("{layer:<20}off {off:<6g}bits {bits_ms:6.2f} ms   float {float_ms:6.2f} ms".format(**found))


def row(channels: int, filters: int, kernel: int, side: int) -> dict[str, object]:
    generator = np.random.default_rng(0)
    weight = generator.choice(np.float32([-1, 1]), (filters, channels, kernel, kernel))
    x = generator.normal(size=(1, channels, side, side)).astype(np.float32)
    signs = np.where(x > 0, np.float32(1), np.float32(-1))
    wanted = functional.conv2d(torch.from_numpy(signs), torch.from_numpy(weight), padding=kernel // 2).numpy()
    cases = {"bits": (of_bits(x, weight), x), "float": (in_float(x, weight), signs)}
    requests = {what: (compiled(program), taken) for what, (program, taken) in cases.items()}
    given = {what: run(taken) for what, (run, taken) in requests.items()}
    times: dict[str, list[float]] = {what: [] for what in requests}
    for _ in range(RUNS):
        for what, (run, taken) in requests.items():
            start = time.perf_counter()
            run(taken)
            times[what].append(1e3 * (time.perf_counter() - start))
    layer = f"{kernel} x {kernel}, {channels} to {filters}"
    off = float(abs(given["bits"][0] - wanted).max())
    return {"layer": layer, "off": off, "bits_ms": min(times["bits"]), "float_ms": min(times["float"])}


def of_bits(x: np.ndarray, weight: np.ndarray) -> openvino.Model:
    taken, pad = opset13.parameter(x.shape, np.float32), [weight.shape[-1] // 2] * 2
    zero, one = (opset13.constant(np.full((1, 1, 1, 1), number, np.float32)) for number in (0, 1))
    bits = np.packbits(weight.ravel() > 0, bitorder="little")
    packed = openvino.Tensor(bits, openvino.Shape(weight.shape), openvino.Type.u1)
    given = opset1.binary_convolution(
        opset13.fake_quantize(taken, zero, zero, zero, one, 2),
        openvino.op.Constant(packed, shared_memory=False),
        [1, 1],
        pad,
        pad,
        [1, 1],
        "xnor-popcount",
        0.0,  # what is padded adds nothing
    )
    return openvino.Model([given], [taken])


def in_float(x: np.ndarray, weight: np.ndarray) -> openvino.Model:
    taken, pad = opset13.parameter(x.shape, np.float32), [weight.shape[-1] // 2] * 2
    given = opset13.convolution(taken, opset13.constant(weight), [1, 1], pad, pad, [1, 1])
    return openvino.Model([given], [taken])


def compiled(program: openvino.Model) -> openvino.CompiledModel:
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(program, "CPU", options)


if __name__ == "__main__":
    main()
