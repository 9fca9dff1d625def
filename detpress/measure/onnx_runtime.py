"""ONNX Runtime, from the ONNX file that `detpress export` writes."""

import tempfile
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from detpress.detector.export import onnx_model
from detpress.measure.runtime import Runtime, precision_name
from detpress.model import Model


def open_onnxruntime(model: Model, batch: int, threads: int) -> Runtime:
    """Takes any number of images at a time.

    ONNX Runtime computes a convolution in integers only where its output is quantized before the activation; where
    it is after that, as in INC's models, the convolution is in float and `precision` says so.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(
            onnx_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        operators = [node.op_type for node in onnx.load(optimized).graph.node]

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(found) for found in session.run(None, {"images": images.numpy()}))

    convolutions = [operator for operator in operators if operator.endswith("Conv")]
    precision = precision_name(["int8" if name == "QLinearConv" else "fp32" for name in convolutions])
    return Runtime("onnxruntime", run, threads, precision)
