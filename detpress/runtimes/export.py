"""Detectors in the files of other programs; what is written is read again, run, and compared.

onnx      .onnx            float or int8 as ONNX Runtime executes it; metadata as of `encodings.onnx_model`
openvino  .xml and .bin    float, int8 or bits as OpenVINO executes it; the same metadata in `rt_info/detpress`
torch     .pt2             a program of torch.export, any batch; int8 with `quantized_decomposed` operators
darknet   .cfg, .weights   what is computed in float, with the float values of encoded weights
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.encodings.in_float import without_encodings
from detpress.encodings.int8_onnx import OPSET
from detpress.encodings.onnx_model import metadata, onnx_model
from detpress.errors import InputError

# How far maps may differ, as a share of their largest value. Runtimes add in another order (1e-6 of it), compute in
# other 16-bit types, and round int8 in other places, where 0.35 was seen in a network of 75 random convolutions.
TOLERANCES = {Form.HALF: 0.1, Form.INT8: 0.5, Form.SIMULATED: 0.5}
TOLERANCE = 1e-3  # of any other form

WRITTEN_BESIDE = {".xml": ".bin", ".cfg": ".weights"}


@dataclass(frozen=True)
class Difference:
    """Between the raw maps of a model and of the file that was written, for one random image.

    largest: of an element, absolute; size: the largest absolute value in the model's maps; tolerance: the largest share
    of it that is usual for the model's form.
    """

    largest: float
    size: float
    tolerance: float

    @property
    def is_usual(self) -> bool:
        """False also where one of the two gives something that is not finite."""
        return math.isfinite(self.largest) and self.largest <= self.tolerance * self.size


def write_onnx(model: Model, path: Path, opset: int = OPSET) -> Difference:
    """Writes the ONNX file in one of `OPSETS`. Like all `write_...`: returns how the file differs when it is run again,
    here by ONNX Runtime.

    Raises InputError where a file cannot be written.
    """
    from detpress.runtimes.onnx_runtime import runtime_of_onnx

    content = onnx_model(model, opset=opset).SerializeToString(deterministic=True)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    return _difference(model, runtime_of_onnx(str(path), torch.get_num_threads()).run)


def write_openvino(model: Model, path: Path) -> Difference:
    """Writes OpenVINO's `path` (.xml) and, beside it, the .bin; run again by OpenVINO. See `write_onnx`."""
    import openvino

    from detpress.runtimes.openvino_runtime import openvino_core, program_of, runtime_of_program

    if not path.parent.is_dir():  # OpenVINO would make it
        raise InputError(f"{path}: cannot be written (no such folder)")
    program = program_of(model)
    for key, value in metadata(model.architecture).items():
        program.set_rt_info(value, ["detpress", key])
    try:
        openvino.save_model(program, path, compress_to_fp16=False)
        program = openvino_core().read_model(path)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written by OpenVINO, with its weights beside it") from error
    return _difference(model, runtime_of_program(program, 1, torch.get_num_threads()).run)


def write_torch(model: Model, path: Path) -> Difference:
    """Writes a program of torch.export, loaded and run again by PyTorch. See `write_onnx`."""
    size = model.architecture.input_size
    any_batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch to itself
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.export.export(model.network, (torch.zeros(2, 3, *size),), dynamic_shapes=(any_batch,))
        try:
            torch.export.save(program, path, extra_files=metadata(model.architecture))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: cannot be written") from error
        again = torch.export.load(path).module()
    return _difference(model, again)


def write_darknet(model: Model, path: Path) -> Difference:
    """Writes Darknet's `path` (.cfg) and, beside it, the .weights; both read again. See `write_onnx`.

    The weights of a model that was imported, and not changed since, are the file that they came from, byte for byte.
    Encoded weights are written as the values that they stand for. Raises InputError for a model that is not computed in
    float, too.
    """
    from detpress.detector.darknet import WeightsHeader, kept_options, read_model, write_model

    network = model.network
    assert isinstance(network, Network)
    if any(encoding.rounds_input or encoding.precision != "fp32" for encoding in network.encodings.values()):
        raise InputError(f"a model of the form {model.form} has no Darknet form; expected one in float")
    weights = path.with_suffix(".weights")
    try:
        write_model(without_encodings(network), path, weights, WeightsHeader.of(model), kept_options(model))
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be written ({error.strerror})") from error
    again = read_model(path, weights, list(model.architecture.classes))
    return _difference(model, again.network)


def _difference(model: Model, run: Callable[[Tensor], Iterable[Tensor]]) -> Difference:
    """Between the raw maps of the model and of `run`."""
    image = torch.rand(1, 3, *model.architecture.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = model.network(image)
        apart = torch.cat([(one - other).flatten() for one, other in zip(maps, run(image), strict=True)])
    size = max(float(one.abs().max()) for one in maps)
    return Difference(float(apart.abs().max()), size, TOLERANCES.get(model.form, TOLERANCE))


# What `detpress export --to` takes: the file's suffix, and the function that writes it.
EXPORTS: dict[str, tuple[str, Callable[[Model, Path], Difference]]] = {
    "onnx": (".onnx", write_onnx),
    "openvino": (".xml", write_openvino),
    "torch": (".pt2", write_torch),
    "darknet": (".cfg", write_darknet),
}
