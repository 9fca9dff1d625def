"""Int8 by detpress (INC's scales) beside fp32, bf16, NNCF's int8 and ONNX Runtime's own, in the runtimes they are for.

    python benchmarks/int8.py [full small digits] [--bundle BUNDLE --data DEVKIT] [--more] [--threads 2] [--rounds 5]
                              [--json]

full, small   YOLOv3 at 416 pixels, and of width 0.25 at 160, with random weights whose BatchNorms have seen images
digits        the shipped model on its data; like any --bundle with its --data, scored on the test images

All quantizers see the same calibration images and quantize everything, with minmax ranges and a scale a filter.
`--more` adds torch.compile, which takes minutes, and activations rounded dynamically, each batch by its own range.
"Asymmetric" is `inc.static_int8` with `symmetric: false`, whose zero points cost OpenVINO time.
NNCF (the extra `bench`; its rows are missing where it is not installed): its default preset. ONNX Runtime: its
pre-processing, then quantize_static to Q/DQ with uint8 activations and int8 weights. Latency is of the network alone,
batch 1; the cases take turns, round by round, so that whatever else the machine does falls on all of them, and a figure
is the median over all rounds. Bytes are those of the file that the runtime loads. SQNR: signal-to-quantization-noise
ratio of the raw maps on held-out images, in decibels, the part of a map that is the same everywhere not counted as
signal; of the map that has the lowest.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
import openvino
import torch
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from detpress.adapters.inc import Scheme, quantize_static
from detpress.adapters.inc_dynamic import quantize_dynamic
from detpress.builtin import find_bundle
from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.images import place_image, read_image
from detpress.detector.model import Model, new_model
from detpress.detector.predict import predict_image_set
from detpress.encodings.bundle import load_bundle
from detpress.encodings.onnx_model import onnx_model
from detpress.measure.size import storage_bytes
from detpress.runtimes.onnx_runtime import runtime_of_onnx
from detpress.runtimes.opening import open_runtime
from detpress.runtimes.openvino_runtime import openvino_core, runtime_of_program
from detpress.runtimes.runtime import Runtime
from detpress.voc.devkit import Devkit
from detpress.voc.evaluate import evaluate
from detpress.voc.named import open_data

try:
    import nncf
except ImportError:
    nncf = None

SIZES = {"full": (1.0, 416), "small": (0.25, 160)}  # width, pixels
CALIBRATION, HELD_OUT = 32, 8  # images
STORED_AS = {Form.DENSE: "dense_fp32", Form.INT8: "int8"}
SECONDS = 0.5  # of a case in a round


@dataclass(frozen=True)
class Case:
    """One model in one runtime; the reference is the case that its ratio is to."""

    numbers: str
    runtime: Runtime
    bytes: int
    reference: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="of full, small, digits; all by default", metavar="MODEL")
    parser.add_argument("--bundle", help="another float model")
    parser.add_argument("--data", help="its devkit")
    parser.add_argument("--more", action="store_true", help="also torch.compile, and dynamic int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if nncf:
        nncf.set_log_level(logging.ERROR)
    named = options.models or ([] if options.bundle else ["full", "small", "digits"])
    found = {}
    for name in [*named, *([options.bundle] if options.bundle else [])]:
        if name in SIZES:
            devkit = open_data("builtin:digits")
            model = untrained(*SIZES[name], devkit)
            found[name] = measure(model, devkit, None, options)
        else:
            model = load_bundle(find_bundle("builtin:digits" if name == "digits" else name))
            root = "builtin:digits" if name == "digits" else options.data
            devkit = open_data(root, list(model.architecture.classes))
            found[name] = measure(model, devkit, devkit, options)
        if not options.json:
            show(name, model, found[name], options)
    if options.json:
        print(json.dumps(found, indent=1))


def untrained(width: float, pixels: int, devkit: Devkit) -> Model:
    model = new_model(build_architecture("yolov3", [f"class{i}" for i in range(20)], pixels, width), seed=0)
    images = squares(devkit, "train", 24, model)
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3
    model.network.train()
    with torch.no_grad():
        for i in range(12):
            model.network(images[8 * (i % 3) :][:8])
    model.network.eval().requires_grad_(False)
    return model


def squares(devkit: Devkit, split: str, count: int, model: Model) -> Tensor:
    """float32 (count, 3, H, W) in [0, 1]: the first images of the set."""
    architecture = model.architecture
    images = [read_image(devkit.image_path(annotation)) for annotation in devkit.image_set(split)[:count]]
    placed = [place_image(image, architecture.input_size, architecture.resize)[0] for image in images]
    return torch.stack(placed).float() / 255


def measure(
    model: Model, devkit: Devkit, scored_on: Devkit | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    images = squares(devkit, "train", CALIBRATION, model)
    held_out = squares(devkit, "test", HELD_OUT, model)
    cases = cases_of(model, images, options.threads, options.more)
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(options.rounds):
        for case, taken in zip(cases, seconds, strict=True):
            taken += timed(lambda case=case: case.runtime.run(held_out[:1]))
    milliseconds = [1e3 * median(taken) for taken in seconds]
    expected = [cases[0].runtime.run(image[None]) for image in held_out]
    rows = []
    for case, taken in zip(cases, milliseconds, strict=True):
        reference = next(
            other
            for one, other in zip(cases, milliseconds, strict=True)
            if (one.numbers, one.runtime.name) == (case.reference, case.runtime.name)
        )
        found = [case.runtime.run(image[None]) for image in held_out]
        row = {
            "numbers": case.numbers,
            "runtime": case.runtime.name,
            "precision": case.runtime.precision,
            "milliseconds": taken,
            "ratio": taken / reference,
            "ratio_to": case.reference,
            "bytes": case.bytes,
            "sqnr_db": None if case is cases[0] else sqnr(expected, found),
        }
        if scored_on:
            detections = predict_image_set(case.runtime.run, model.architecture, scored_on, "test")
            row["map"] = evaluate(scored_on.image_set("test"), detections, "voc07", 0.5).map
        rows.append(row)
    return rows


def cases_of(model: Model, images: Tensor, threads: int, more: bool) -> list[Case]:
    log = logging.getLogger("int8")
    log.addHandler(logging.NullHandler())
    log.propagate = False

    def by_detpress(scheme: Scheme) -> Model:
        network = quantize_static(model.network, model.architecture, images, scheme, (), log)
        return model.with_network(network, Form.INT8)

    int8, finer = by_detpress(Scheme()), by_detpress(Scheme(symmetric=False))
    in_float = onnx_model(model)
    core = openvino_core()
    program = core.read_model(in_float.SerializeToString())
    ours, ours_finer = (core.read_model(onnx_model(one, "openvino").SerializeToString()) for one in (int8, finer))
    cases = [
        of_onnx("fp32", in_float, threads, "fp32"),
        of_onnx("int8, ONNX Runtime", by_onnxruntime(in_float, images), threads, "fp32"),
        of_onnx("int8, detpress", onnx_model(int8, "onnxruntime"), threads, "int8, ONNX Runtime"),
        of_onnx("the same, asymmetric", onnx_model(finer, "onnxruntime"), threads, "int8, ONNX Runtime"),
        of_program("fp32", program, threads, "fp32"),
        of_program("bf16", program, threads, "fp32", in_float="bf16"),
        *([of_program("int8, NNCF", by_nncf(program, images), threads, "fp32")] if nncf else []),
        of_program("int8, detpress", ours, threads, "int8, NNCF" if nncf else "fp32"),
        of_program("the same, asymmetric", ours_finer, threads, "int8, NNCF" if nncf else "fp32"),
    ]
    if more:
        rounded = quantize_dynamic(model.network, model.architecture, images[:1], True, (), log)
        dynamic = model.with_network(rounded, Form.SIMULATED)
        for numbers, one in (("fp32", model), ("int8, detpress", int8)):
            runtime = open_runtime("torch-compile", one, 1, threads)
            cases.append(Case(numbers, runtime, storage_bytes(one)[STORED_AS[one.form]], "fp32"))
        cases.append(of_onnx("int8, dynamic", onnx_model(dynamic, "onnxruntime"), threads, "fp32"))
    return cases


def by_nncf(program: openvino.Model, images: Tensor) -> openvino.Model:
    calibration = nncf.Dataset([image[None].numpy() for image in images])
    return nncf.quantize(program, calibration, subset_size=len(images))


def by_onnxruntime(in_float: onnx.ModelProto, images: Tensor) -> onnx.ModelProto:
    class Images(ort_quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image[None].numpy()}

    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (str(Path(folder) / f"{name}.onnx") for name in ("before", "ready", "after"))
        onnx.save(in_float, before)
        quant_pre_process(before, ready, skip_symbolic_shape=True)  # which fails on the upsampling
        ort_quantization.quantize_static(
            ready,
            after,
            Images(),
            per_channel=True,
            activation_type=ort_quantization.QuantType.QUInt8,
            weight_type=ort_quantization.QuantType.QInt8,
        )
        return onnx.load(after)


def of_onnx(numbers: str, proto: onnx.ModelProto, threads: int, reference: str) -> Case:
    content = proto.SerializeToString()
    return Case(numbers, runtime_of_onnx(content, threads), len(content), reference)


def of_program(numbers: str, program: openvino.Model, threads: int, reference: str, in_float: str = "f32") -> Case:
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(program, Path(folder) / "model.xml", compress_to_fp16=False)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Case(numbers, runtime_of_program(program.clone(), 1, threads, in_float), size, reference)


def timed(run: Callable[[], object]) -> list[float]:
    """Seconds of single runs, for `SECONDS` and at least three; one before is not counted."""
    run()
    found: list[float] = []
    while sum(found) < SECONDS or len(found) < 3:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def sqnr(expected: list[tuple[Tensor, ...]], found: list[tuple[Tensor, ...]]) -> float:
    """In decibels, the lowest of the raw maps."""
    ratios = []
    for one, other in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        signal, noisy = torch.cat(one).double(), torch.cat(other).double()
        varying = signal - signal.mean(dim=(0, 2, 3), keepdim=True)
        ratios.append(10 * np.log10(float(varying.square().sum() / (signal - noisy).square().sum())))
    return min(ratios)


def show(name: str, model: Model, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    print(f"\n{name}: YOLOv3 at {model.architecture.image_size} pixels, batch 1, {options.threads} threads")
    print(
        f"{'numbers':<22}{'runtime':<15}{'convolutions':<14}{'ms':>8}  {'ratio to':<25}{'MB':>8}{'SQNR dB':>9}"
        f"{'mAP':>8}"
    )
    for row in rows:
        ratio = f"{row['ratio']:.2f} {row['ratio_to']}"
        noise = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        score = f"{row['map']:.4f}" if "map" in row else ""
        print(
            f"{row['numbers']:<22}{row['runtime']:<15}{row['precision']:<14}{row['milliseconds']:8.2f}  "
            f"{ratio:<25}{row['bytes'] / 1e6:8.2f}{noise:>9}{score:>8}",
            flush=True,
        )
    if not nncf:
        print(f"{'int8, NNCF':<22}{'openvino':<15}nncf is not installed")


if __name__ == "__main__":
    main()
