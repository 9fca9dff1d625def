"""What executes a model when latency is measured: one interface, one file a runtime."""

from pathlib import Path

import torch

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.errors import InputError, nearest
from detpress.runtimes.names import RUNTIMES
from detpress.runtimes.runtime import Runtime

EXPORTED = {".onnx": "onnxruntime", ".xml": "openvino"}  # the runtime of an exported file


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
