"""`mixed_bits`: what it leaves is the mixture that it says, executed, and the same in every run."""

import csv
from pathlib import Path

import pytest
import torch
from small_training import few_digits, same_bits, small_bench

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.int8 import Int8
from detpress.encodings.packed import Packed
from detpress.errors import InputError
from detpress.plugins.mixed_bits import MixedBits, MixedBitsOptions
from detpress.runtimes.opening import open_runtime

OPTIONS = MixedBitsOptions(mean_bits=6, calibration_images=4)


def test_layers_are_in_int8_or_4_bits_within_the_budget(tmp_path: Path) -> None:
    devkit = few_digits(tmp_path, 4)
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.1), seed=0)
    bench = small_bench(devkit, model, tmp_path / "scratch")
    bench.files = tmp_path / "files"
    mixed = MixedBits().apply(model, OPTIONS, bench)
    assert mixed.form is Form.INT8
    kinds = {i: type(encoding) for i, encoding in mixed.encodings.items()}
    assert set(kinds.values()) == {Int8, Packed}
    rows = list(csv.DictReader((tmp_path / "files/bits.csv").open()))
    assert {int(row["layer"]): {"8": Int8, "4": Packed}[row["bits"]] for row in rows} == kinds
    codes = sum(int(row["weights"]) * int(row["bits"]) for row in rows) / sum(int(row["weights"]) for row in rows)
    assert bench.figures["bits_per_weight"] == pytest.approx(codes)
    assert 5 < codes <= 6
    assert bench.figures["stored_bits_per_weight"] > codes

    again = MixedBits().apply(model, OPTIONS, bench)
    assert same_bits(mixed, again)
    save_bundle(mixed, tmp_path / "bundle")
    assert same_bits(mixed, load_bundle(tmp_path / "bundle"))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = mixed.network(image)
        for one, other in zip(maps, open_runtime("onnxruntime", mixed, 1, 1).run(image), strict=True):
            assert float((one - other).abs().mean()) <= 0.05 * float(one.abs().mean())

    with pytest.raises(InputError, match=r"^mean_bits: 4.00001 leaves no layer in int8; expected at least 4.0"):
        MixedBits().plan(model, MixedBitsOptions(mean_bits=4.00001))
