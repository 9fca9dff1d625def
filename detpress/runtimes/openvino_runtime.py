"""OpenVINO, from the model that `detpress export` writes."""

from functools import cache
from pathlib import Path

import openvino
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture
from detpress.detector.model import Model
from detpress.encodings.onnx_model import heads_of_metadata, onnx_model
from detpress.errors import InputError
from detpress.runtimes.openvino_binary import count_equal_bits
from detpress.runtimes.runtime import Runtime, in_batches, precision_name

HINTS: dict[str, str] = {"bf16": "bf16", "fp16": "f16"}
PRECISIONS = {"f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8", "u1": "binary"}


@cache
def openvino_core() -> openvino.Core:
    """The only one of this process, which stays.

    Each of them brings a stack for signal handlers, and puts back the one that it found when it goes (OpenVINO 2026.4).
    Of two that do not go in the reverse order that leaves one that is gone, and the next signal that is handled, such
    as Ctrl-C or the end of a child, ends the process with SIGSEGV.
    """
    return openvino.Core()


def open_openvino(model: Model, batch: int, threads: int) -> Runtime:
    """OpenVINO knows one precision for all that is not in integers: a network in 16 bits is computed in them from end
    to end, also between the convolutions and in those that were left in float32.
    """
    precisions = [encoding.precision for encoding in model.encodings.values()]
    in_float = next((HINTS[precision] for precision in precisions if precision in HINTS), "f32")
    return runtime_of_program(program_of(model), batch, threads, in_float)


def open_openvino_bf16(model: Model, batch: int, threads: int) -> Runtime:
    """What is in float is computed in bf16, where the CPU has it; `precision` says whether it has."""
    return runtime_of_program(program_of(model), batch, threads, "bf16", "openvino-bf16")


def program_of(model: Model) -> openvino.Model:
    program = openvino_core().read_model(onnx_model(model, "openvino").SerializeToString())
    count_equal_bits(program)
    return program


def read_openvino(path: Path, threads: int) -> tuple[Architecture, Runtime]:
    """The detection heads and the runtime of an .xml file, its .bin beside it, that `detpress export` wrote.

    Raises InputError where it is none.
    """
    try:
        program = openvino_core().read_model(path)
        keys = program.get_rt_info(["detpress"]).value if program.has_rt_info(["detpress"]) else {}
        heads = heads_of_metadata({key: program.get_rt_info(["detpress", key]).astype(str) for key in keys})
        return heads, runtime_of_program(program, 1, threads)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except RuntimeError as error:
        raise InputError(f"{path}: not a model that OpenVINO can read, with its .bin beside it") from error


def runtime_of_program(
    program: openvino.Model, batch: int, threads: int, in_float: str = "f32", name: str = "openvino"
) -> Runtime:
    """Compiled for exactly `batch` images and for latency: one stream.

    in_float: what is not in integers is computed in, `f32`, `f16` or `bf16`. By default OpenVINO takes bf16 where the
    CPU has it, and a fp32 model is to be fp32.
    """
    shape = program.input().partial_shape
    shape[0] = batch
    program.reshape(shape)
    options = {"INFERENCE_PRECISION_HINT": in_float, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = openvino_core().compile_model(program, "CPU", options)
    request = compiled.create_infer_request()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        found = request.infer([images.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[output]) for output in compiled.outputs)

    precision = precision_name(convolution_precisions(compiled))
    return Runtime(name, in_batches(run, batch), compiled.get_property("INFERENCE_NUM_THREADS"), precision)


def convolution_precisions(compiled: openvino.CompiledModel) -> list[str]:
    """What each convolution of the graph that is really executed is computed in: `fp32`, `int8`, ..."""
    found = []
    for operation in compiled.get_runtime_model().get_ops():
        info = operation.get_rt_info()
        if info["layerType"].astype(str) in ("Convolution", "BinaryConvolution"):
            precision = info["runtimePrecision"].astype(str)
            found.append(PRECISIONS.get(precision, precision))
    return found
