"""ONNX Runtime, from the ONNX file that `detpress export` writes."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.encodings.onnx_model import heads_of_metadata, onnx_model
from detpress.errors import InputError
from detpress.runtimes.runtime import Runtime, precision_name


def open_onnxruntime(model: Model, batch: int, threads: int) -> Runtime:
    """Takes any number of images at a time, whatever `batch` is."""
    return runtime_of_onnx(onnx_model(model, "onnxruntime").SerializeToString(), threads)


def read_onnx(path: Path, threads: int) -> tuple[Architecture, Runtime]:
    """The detection heads and the runtime of an ONNX file that `detpress export` wrote.

    Raises InputError where it is none.
    """
    try:
        found = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        return heads_of_metadata(found), runtime_of_onnx(str(path), threads)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # protobuf's and ONNX Runtime's share no base class
        raise InputError(f"{path}: not a model that ONNX Runtime can run: {type(error).__name__}") from error


def runtime_of_onnx(path_or_content: str | bytes, threads: int) -> Runtime:
    """`precision` tells int8 of the convolutions that ONNX Runtime fused with the quantization on both sides; those
    that give the raw maps have none behind them and are computed in float, on inputs and weights of 8 bits.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(path_or_content, options, providers=["CPUExecutionProvider"])
        operators = [node.op_type for node in onnx.load(optimized).graph.node]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(found) for found in session.run(None, {"images": images.numpy()}))

    convolutions = [operator for operator in operators if operator.endswith(("Conv", "ConvInteger"))]
    precision = precision_name(["int8" if name in ("QLinearConv", "ConvInteger") else "fp32" for name in convolutions])
    return Runtime("onnxruntime", run, threads, precision)
