"""Sensitivity: ratios in decibels against numbers known beforehand, and what leaving a layer in float brings."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from detpress.adapters.inc import Scheme, quantize_static
from detpress.cli import app
from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.form import Form
from detpress.detector.images import read_squares
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.encodings.bundle import save_bundle
from detpress.encodings.int8 import input_scales
from detpress.errors import InputError
from detpress.measure.sensitivity import in_float, measure_sensitivity, signal_to_noise
from detpress.measure.size import layer_table, storage_bytes
from detpress.voc.devkit import open_devkit
from detpress.voc.digits import write_digits


def test_noise_of_a_tenth_of_the_signal_is_20_decibels() -> None:
    signal = torch.tensor([3.0, -4.0])
    assert signal_to_noise([(signal, 1.1 * signal)]) == pytest.approx(20, abs=1e-5)
    assert signal_to_noise([(signal, signal), (torch.zeros(1), torch.tensor([0.5]))]) == pytest.approx(20, abs=1e-5)
    assert signal_to_noise([(signal, signal)]) == math.inf


def test_with_every_layer_in_float_the_float_network_is_back(
    dense_model: Model, int8_model: Model, images: Tensor
) -> None:
    assert isinstance(int8_model.network, Network)
    network = in_float(int8_model.network, dense_model.network, list(int8_model.network.encodings))
    with torch.inference_mode():
        for one, other in zip(dense_model.network(images), network(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_layer_quantized_badly_is_found_and_its_price_stated(
    dense_model: Model, int8_model: Model, images: Tensor
) -> None:
    """One layer's weights keep a sixteenth of their steps; its own ratio falls by 24 dB and what bias correction, which
    was made for the finer steps, had gained; the others' stay."""
    assert isinstance(int8_model.network, Network)
    before = measure_sensitivity(int8_model.network, dense_model.network, images[:2], lambda *_: None)
    coarse = in_float(int8_model.network, dense_model.network, [])
    spoiled = 105
    block = coarse.get_submodule(f"layers.{spoiled}.convolution")
    block.weight = (block.weight.float() / 16).round().mul(16).clamp(-128, 127).to(torch.int8)
    after = measure_sensitivity(coarse, dense_model.network, images[:2], lambda *_: None)
    assert after.by_gain()[0].index == spoiled
    assert after.by_gain()[0].gain_db > 3
    assert after.output_sqnr_db < before.output_sqnr_db - 3
    for one, other in zip(before.layers, after.layers, strict=True):
        assert one.index == other.index
        if one.index == spoiled:
            assert 24 < one.sqnr_db - other.sqnr_db < 36
        else:
            assert one.sqnr_db == pytest.approx(other.sqnr_db, abs=1e-6)
    layer = dense_model.architecture.layers[spoiled]
    assert isinstance(layer, Convolution)
    without = storage_bytes(int8_model.with_network(in_float(coarse, dense_model.network, [spoiled])))["int8"]
    price = next(row for row in after.layers if row.index == spoiled)
    assert price.extra_bytes == without - storage_bytes(int8_model)["int8"]
    assert price.float_macs == block.weight.numel() * layer_table(dense_model.architecture)[spoiled].side ** 2


def test_another_networks_weights_are_refused(int8_model: Model) -> None:
    other = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
    assert isinstance(int8_model.network, Network)
    with pytest.raises(InputError, match="other layers"):
        measure_sensitivity(int8_model.network, other.network, torch.zeros(1, 3, 64, 64), lambda *_: None)


def test_the_command_names_the_layers_around_depthwise_convolutions_that_may_have_been_equalized(
    tmp_path: Path,
) -> None:
    write_digits(tmp_path / "devkit", {"val": 2})
    devkit = open_devkit(tmp_path / "devkit")
    model = new_model(build_architecture("mobile-yolov3", devkit.classes, 64, width=0.25), seed=0)
    images = read_squares([devkit.image_path(one) for one in devkit.image_set("val")], model.architecture)
    quantized = quantize_static(model.network, model.architecture, images, Scheme(), (), logging.getLogger("tests"))
    save_bundle(model, tmp_path / "float")
    save_bundle(model.with_network(quantized, Form.INT8), tmp_path / "int8")
    options = ["--parent", str(tmp_path / "float"), "--data", str(tmp_path / "devkit"), "--images", "1"]
    options += ["--picture", str(tmp_path / "plot.html"), "--json"]
    found = CliRunner().invoke(app, ["sensitivity", str(tmp_path / "int8"), *options], catch_exceptions=False)
    layers = model.architecture.layers
    depthwise = {
        i for i, layer in enumerate(layers) if getattr(layer, "groups", 1) > 1 and isinstance(layer, Convolution)
    }
    behind_shared = {11, 23, 34, 49}  # what these take, other scales or heads take, too
    alone = depthwise - behind_shared
    assert behind_shared < depthwise
    assert set(json.loads(found.stdout)["maybe_equalized"]) == {f"layers.{i}" for k in alone for i in (k - 1, k)}


def test_the_command_prints_plots_and_finds_the_float_model_in_a_runs_folder(tmp_path: Path) -> None:
    write_digits(tmp_path / "devkit", {"val": 4})
    devkit = open_devkit(tmp_path / "devkit")
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.1), seed=0)
    images = read_squares([devkit.image_path(one) for one in devkit.image_set("val")], model.architecture)
    quantized = quantize_static(model.network, model.architecture, images, Scheme(), (), logging.getLogger("tests"))
    bundle = tmp_path / "run" / "1-inc.static_int8" / "bundle"
    save_bundle(model, tmp_path / "run" / "0-model" / "bundle")
    save_bundle(model.with_network(quantized, Form.INT8), bundle)
    options = ["--data", str(tmp_path / "devkit"), "--images", "2", "--picture", str(tmp_path / "plot.html")]

    def run(folder: Path, *more: str) -> str:
        return CliRunner().invoke(app, ["sensitivity", str(folder), *options, *more], catch_exceptions=False).stdout

    printed = json.loads(run(bundle, "--json", "--map"))
    assert printed["images"] == 2
    assert printed["maybe_equalized"] == []
    assert [row["index"] for row in printed["layers"]] == list(input_scales(quantized))
    assert all(row["sqnr_db"] > 10 and row["map_gain"] is not None for row in printed["layers"])
    assert "SQNR of the layer" in (tmp_path / "plot.html").read_text()
    assert f"{printed['output_sqnr_db']:.2f} dB" in run(bundle)
    with pytest.raises(InputError, match="expected one in int8 or packed"):
        run(tmp_path / "run" / "0-model" / "bundle")
    bundle.rename(tmp_path / "alone")
    with pytest.raises(InputError, match="expected --parent BUNDLE"):
        run(tmp_path / "alone")
