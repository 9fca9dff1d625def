"""OpenVINO, from the ONNX file that `detpress export` writes."""

import openvino
import torch
from torch import Tensor

from detpress.detector.export import onnx_model
from detpress.detector.half import HalfNetwork
from detpress.measure.runtime import Runtime, in_batches, precision_name
from detpress.model import Model

# By default OpenVINO computes float models in bf16 where the CPU has it: a fp32 model is to be fp32.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
PRECISIONS = {"f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8"}


def open_openvino(model: Model, batch: int, threads: int) -> Runtime:
    """Compiled for exactly `batch` images and for latency: one stream.

    OpenVINO knows one precision for a whole network: one in 16 bits is computed in them from end to end, also between
    the convolutions and in those that were left in float32.
    """
    core = openvino.Core()
    program = core.read_model(onnx_model(model).SerializeToString())
    side = model.architecture.image_size
    program.reshape([batch, 3, side, side])
    network = model.network
    wanted = network.half_precision.dtype if isinstance(network, HalfNetwork) else "fp32"
    options = {"INFERENCE_PRECISION_HINT": HINTS[wanted], "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = core.compile_model(program, "CPU", options)
    request = compiled.create_infer_request()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = request.infer([images.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[output]) for output in compiled.outputs)

    precision = precision_name(convolution_precisions(compiled))
    return Runtime("openvino", in_batches(run, batch), compiled.get_property("INFERENCE_NUM_THREADS"), precision)


def convolution_precisions(compiled: openvino.CompiledModel) -> list[str]:
    """What each convolution of the graph that is really executed is computed in: `fp32`, `int8`, ..."""
    found = []
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].astype(str) == "Convolution":
            precision = info["runtimePrecision"].astype(str)
            found.append(PRECISIONS.get(precision, precision))
    return found
