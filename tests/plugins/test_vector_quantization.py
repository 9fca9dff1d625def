"""`vector_quantization`: what becomes of a model's layers, and that another process changes no bit."""

import csv
import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_training import few_digits, same_bits, small_bench

from detpress.detector.architecture import build_architecture
from detpress.detector.folding import folded_weight, stored_weight
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import convolution_of
from detpress.encodings.bundle import save_bundle
from detpress.encodings.vectors import Vectors
from detpress.errors import InputError
from detpress.measure.size import storage_bytes
from detpress.plugins.deep_compression import ShareOptions
from detpress.plugins.vector_quantization import Product, ProductOptions, Residual, ResidualOptions
from detpress.run.workbench import StageWorkbench
from detpress.training.config import TrainingOptions
from detpress.voc.devkit import Devkit

UNTRAINED = {"words": 16, "calibration_images": 4}
OPTIONS = UNTRAINED | {"training": TrainingOptions(batch_size=4)}


@dataclass(frozen=True)
class Made:
    devkit: Devkit
    model: Model
    residual: Model
    figures: dict[str, float]
    table: list[dict[str, str]]


def residual(epochs: int, **other: object) -> ResidualOptions:
    return ResidualOptions(epochs=epochs, codebook="int8", **OPTIONS, **other)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("vectors")
    devkit = few_digits(folder, 8)
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 96, width=0.1), seed=0)
    bench = small_bench(devkit, model, folder / "residual")
    bench.files = folder / "files"
    found = Residual().apply(model, residual(1), bench)
    return Made(devkit, model, found, bench.figures, list(csv.DictReader((folder / "files/bytes.csv").open())))


def bench_of(made: Made, folder: Path) -> StageWorkbench:
    bench = small_bench(made.devkit, made.model, folder)
    bench.files = folder / "files"
    return bench


def test_all_layers_but_the_first_have_words_and_small_ones_have_fewer(made: Made) -> None:
    assert made.residual.form is Form.PACKED
    first, *others = made.residual.encodings
    assert not isinstance(made.residual.encodings[first], Vectors)
    for i in others:
        encoding, weight = made.residual.encodings[i], stored_weight(made.model.own_network, i)
        assert isinstance(encoding, Vectors)
        assert encoding.size == (4 if weight.shape[-1] == 1 else 9)
        assert encoding.words <= min(16, len(weight) * -(-weight[0].numel() // encoding.size) // 4)
        assert encoding.words.bit_count() == 1


def test_the_figures_are_the_bytes_of_the_parts(made: Made) -> None:
    parts = [made.figures[f"{part}_bytes"] for part in ("codebook", "code", "scale")]
    first = made.model.own_network.layers[0].state_dict().items()
    in_float = sum(tensor.nbytes for name, tensor in first if not name.endswith("tracked"))
    assert sum(parts) + in_float == storage_bytes(made.residual)["packed"]
    assert made.figures["entropy_bytes"] <= made.figures["code_bytes"]
    assert [int(row["layer"]) for row in made.table] == list(made.residual.encodings)[1:]
    assert sum(float(row["code bytes"]) for row in made.table) == made.figures["code_bytes"]


def test_one_stage_is_product_quantization_of_whole_filters_too(made: Made, tmp_path: Path) -> None:
    options = {"epochs": 0, "size": 0, "pointwise_size": 0}
    one = Residual().apply(made.model, ResidualOptions(stages=1, **options), bench_of(made, tmp_path / "one"))
    product = Product().apply(made.model, ProductOptions(**options), bench_of(made, tmp_path / "product"))
    assert same_bits(one, product)
    for i in list(product.encodings)[1:]:
        weight, encoding = stored_weight(made.model.own_network, i), product.encodings[i]
        assert isinstance(encoding, Vectors)
        assert encoding.size == weight[0].numel()
        _, bias = folded_weight(made.model.own_network, i)
        assert torch.equal(convolution_of(product.network, i).state_dict()["bias"], bias)


def test_words_that_fit_the_inputs_give_outputs_that_are_nearer(made: Made, tmp_path: Path) -> None:
    images = bench_of(made, tmp_path / "images").calibration(8)
    errors = {}
    for asked in (0, 8):
        options = ProductOptions(epochs=0, **UNTRAINED | {"calibration_images": asked})
        found = Product().apply(made.model, options, bench_of(made, tmp_path / str(asked)))
        with torch.inference_mode():
            pairs = zip(found.network(images), made.model.network.eval()(images), strict=True)
            errors[asked] = sum(float((one - other).square().mean()) for one, other in pairs)
    assert errors[8] < errors[0]


READ = """
import hashlib, sys
from pathlib import Path
from detpress.detector.folding import stored_weight
from detpress.encodings.bundle import load_bundle

network = load_bundle(Path(sys.argv[1])).network
for i in network.encodings:
    print(hashlib.sha256(stored_weight(network, i).contiguous().numpy().tobytes()).hexdigest())
"""


def test_another_process_decodes_the_same_bits(made: Made, tmp_path: Path) -> None:
    save_bundle(made.residual, tmp_path / "bundle")
    command = [sys.executable, "-c", READ, str(tmp_path / "bundle")]
    read = subprocess.run(command, capture_output=True, text=True, check=True)
    weights = [stored_weight(made.residual.own_network, i) for i in made.residual.encodings]
    assert read.stdout.split() == [hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest() for one in weights]
    assert convolution_of(made.residual.network, 2).state_dict()["codebook"].dtype is torch.int8


def test_what_does_not_fit_is_refused_before(made: Made) -> None:
    assert len(Residual().plan(made.model, residual(1, exclude=["layers.2"])).layers) == len(made.model.encodings) - 2
    with pytest.raises(InputError, match=r"^exclude: 'layers.99' matches no layer"):
        Product().plan(made.model, ProductOptions(epochs=0, exclude=["layers.99"]))
    with pytest.raises(InputError, match=r"^exclude: all convolutions but the first"):
        Product().plan(made.model, ProductOptions(epochs=0, exclude=["*"]))


@pytest.mark.parametrize("options", [ProductOptions, ResidualOptions, ShareOptions])
def test_how_it_trains_is_refused_where_it_does_not(options: type[ProductOptions | ShareOptions]) -> None:
    with pytest.raises(ValueError, match="training: not read: expected beside `epochs` above 0"):
        options(epochs=0, training={"learning_rate": 0.5})
