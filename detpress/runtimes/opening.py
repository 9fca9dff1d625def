"""What executes a model when latency is measured: one interface, one file a runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.errors import InputError, nearest
from detpress.recipe.sections import RuntimeName

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

EXPORTED = {".onnx": "onnxruntime", ".xml": "openvino"}  # the runtime of an exported file


@dataclass(frozen=True)
class Runtime:
    """A model, ready to run.

    run: images float32 (N, 3, H, W) in [0, 1], of the architecture's size -> raw maps as of `Network.forward`.
    threads: CPU threads that one run may use.
    precision: what the convolutions are really computed in, as the runtime tells: `fp32`, `int8`, or `fp32+int8`.
    """

    name: str
    run: Callable[[Tensor], tuple[Tensor, ...]]
    threads: int
    precision: str


def open_runtime(name: str, model: Model, batch: int = 1, threads: int | None = None) -> Runtime:
    """Prepares `model` on the CPU for `batch` images at a time; more or fewer are computed in batches of that size.

    threads: one a core by default, as PyTorch counts cores.
    Raises InputError for an unknown runtime, and for one that is not installed.
    """
    if name not in RUNTIMES:
        raise InputError(f"unknown runtime '{name}'; {nearest(name, RUNTIMES)}")
    threads = threads or torch.get_num_threads()
    try:
        match name:
            case "torch":
                from detpress.runtimes.torch_runtime import open_eager as open_it
            case "torch-compile":
                from detpress.runtimes.torch_runtime import open_compiled as open_it
            case "onnxruntime":
                from detpress.runtimes.onnx_runtime import open_onnxruntime as open_it
            case "openvino":
                from detpress.runtimes.openvino_runtime import open_openvino as open_it
            case _:
                from detpress.runtimes.openvino_runtime import open_openvino_bf16 as open_it
    except ModuleNotFoundError as error:
        raise InputError(f"runtime '{name}' needs the package '{error.name}', which is not installed") from error
    return open_it(model, batch, threads)


def read_exported(path: Path, threads: int) -> tuple[Architecture, Runtime]:
    """The detection heads and the runtime of a file that `detpress export` wrote, of a suffix in `EXPORTED`.

    Raises InputError for a file that is none, and for a runtime that is not installed.
    """
    try:
        if path.suffix == ".onnx":
            from detpress.runtimes.onnx_runtime import read_onnx as read
        else:
            from detpress.runtimes.openvino_runtime import read_openvino as read
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs the package '{error.name}', which is not installed") from error
    return read(path, threads)


def in_batches(run: Callable[[Tensor], tuple[Tensor, ...]], batch: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """From a function of exactly `batch` images, one of any number: the last batch is filled up with zeros."""

    def run_any(images: Tensor) -> tuple[Tensor, ...]:
        if len(images) == batch:
            return run(images)
        missing = -len(images) % batch
        filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        found = [run(chunk) for chunk in torch.split(filled, batch)]
        return tuple(torch.cat(maps)[: len(images)] for maps in zip(*found, strict=True))

    return run_any


def precision_name(convolutions: Sequence[str]) -> str:
    """The different precisions among those of the convolutions, such as `fp32+int8`."""
    return "+".join(sorted(set(convolutions)))
