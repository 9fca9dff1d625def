"""What a plugin is tried on: small detectors with random weights, and generated images of what they detect.

All of it is written to a folder, so that another process tries the plugin on the very same:

    bundle/    the detector that the plugin is given
    teacher/   another one of the same classes, for options that name a bundle
    data/      training, validation and test images, 64 pixels are enough for them
"""

import random
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.folding import folded_weight
from detpress.detector.form import Form
from detpress.detector.images import read_squares
from detpress.detector.input_scale import InputScale
from detpress.detector.model import Model, new_model
from detpress.detector.narrowing import narrow
from detpress.detector.network import weight_name
from detpress.encodings.bundle import save_bundle
from detpress.encodings.half import half_network
from detpress.encodings.int8_from_scales import int8_network
from detpress.encodings.shared import clusters_of, shared_network
from detpress.encodings.simulated import Codes, simulated_network
from detpress.pruning.unit import UNITS, masked_model
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import CLASSES, write_digits

SIDE = 64  # pixels of the network's input
IMAGES = {"train": 8, "val": 2, "test": 2}
TWENTY = (*CLASSES, *(f"{name} and ten" for name in CLASSES))


@dataclass(frozen=True)
class Case:
    """A detector to be given to the plugin."""

    arch: str = "yolov3-tiny"
    width: float = 0.125
    classes: tuple[str, ...] = CLASSES
    pruned: bool = False  # whether some of its filters are gone, so that layers have odd numbers of them
    form: Form = Form.DENSE


TINY = Case()
YOLOV3 = Case("yolov3", 0.0625)
DEPTHWISE = Case("mobile-yolov3", 0.125)
PRUNED = Case(pruned=True)
ONE_CLASS = Case(classes=("digit",))
TWENTY_CLASSES = Case(classes=TWENTY)


@cache
def written(case: Case) -> Path:
    """The folder of the case, made when it is first asked for, and there until the process ends."""
    folder = Path(_root().name) / f"case-{written.cache_info().currsize}"
    _write_data(case.classes, folder / "data")
    images = images_of(open_data(case, folder / "data"), case)
    model = _seen(new_model(build_architecture(case.arch, case.classes, SIDE, case.width), seed=0), images)
    if case.pruned:
        model = model.with_network(narrow(model.own_network, _some_filters(model)))
    save_bundle(IN_FORM[case.form](model, images), folder / "bundle")
    teacher = new_model(build_architecture(case.arch, case.classes, SIDE, 2 * case.width), seed=1)
    save_bundle(_seen(teacher, images), folder / "teacher")
    return folder


@cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="detpress-cases-")


def open_data(case: Case, folder: Path) -> Devkit:
    return open_devkit(folder, case.classes)


def images_of(devkit: Devkit, case: Case) -> Tensor:
    """All training images: float32 (N, 3, 64, 64) in [0, 1]."""
    annotations = devkit.image_set("train")
    architecture = build_architecture(case.arch, case.classes, SIDE, case.width)
    paths = [devkit.image_path(annotation) for annotation in annotations]
    return read_squares(paths, architecture, [annotation.size for annotation in annotations])


def without_test_images(data: Path, folder: Path) -> None:
    """A copy of the data set in `folder`: it names test images, but neither they nor their annotations are there."""
    shutil.copytree(data, folder)
    for name in (folder / "ImageSets/Main/test.txt").read_text(encoding="utf-8").split():
        (folder / f"JPEGImages/{name}.jpg").unlink()
        (folder / f"Annotations/{name}.xml").unlink()


def _write_data(classes: tuple[str, ...], folder: Path) -> None:
    write_digits(folder, IMAGES)
    renamed = {name: classes[i % len(classes)] for i, name in enumerate(CLASSES)}
    for file in sorted((folder / "Annotations").iterdir()):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"(?<=<name>)\w+", lambda found: renamed[found[0]], text), encoding="utf-8")


def _seen(model: Model, images: Tensor) -> Model:
    """Its BatchNorms' statistics become those of the images, as if it had been trained."""
    network = model.network.train()
    with torch.no_grad():
        for _ in range(20):
            network(images)
    network.eval().requires_grad_(False)
    return model


def _some_filters(model: Model) -> dict[int, Tensor]:
    """Of each group of coupled convolutions but the heads, up to half are gone; drawn the same way every time."""
    draw, widths = random.Random(0), model.architecture.output_channels
    kept: dict[int, Tensor] = {}
    for group in coupled_convolutions(model.architecture):
        if not set(group) & set(model.architecture.heads):
            filters = torch.arange(widths[group[0]])
            kept |= dict.fromkeys(group, filters >= draw.randint(0, len(filters) // 2))
    return kept


def _masked(model: Model, images: Tensor) -> Model:
    """Every fourth filter is held at zero."""
    unit = UNITS["filters"]
    kept = {entry: torch.arange(len(mask)) % 4 > 0 for entry, mask in unit.kept(model).items()}
    return masked_model(model, unit, kept)


def _simulated(model: Model, images: Tensor) -> Model:
    """Weights of 8 bits, inputs in float."""
    quantized = {}
    for i in _convolutions(model):
        weight, _ = folded_weight(model.own_network, i)
        scale = weight.abs().flatten(1).amax(1).clamp(min=1e-6) / 127
        codes = (weight / scale[:, None, None, None]).round()
        quantized[i] = Codes(codes, -127, 127, 8, scale, torch.zeros_like(scale), None, folded=True)
    return model.with_network(simulated_network(model.own_network, quantized), Form.SIMULATED)


def _int8(model: Model, images: Tensor) -> Model:
    inputs = {i: InputScale.of_range(-4.0, 4.0) for i in _convolutions(model)}
    return model.with_network(int8_network(model.own_network, inputs, images), Form.INT8)


def _packed(model: Model, images: Tensor) -> Model:
    """Weights of a layer share sixteen values."""
    clusters = {}
    for i in _convolutions(model):
        weight = model.network.get_parameter(weight_name(i)).detach()
        clusters[i] = clusters_of(weight, None, 4, "linear", seed=0)
    return model.with_network(shared_network(model.own_network, clusters), Form.PACKED)


def _half(model: Model, images: Tensor) -> Model:
    return model.with_network(half_network(model.own_network, "bf16", _convolutions(model)), Form.HALF)


def _convolutions(model: Model) -> list[int]:
    return [i for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution)]


# How a dense model becomes one of the form.
IN_FORM: dict[Form, Callable[[Model, Tensor], Model]] = {
    Form.DENSE: lambda model, images: model,
    Form.MASKED: _masked,
    Form.PACKED: _packed,
    Form.SIMULATED: _simulated,
    Form.INT8: _int8,
    Form.HALF: _half,
}
