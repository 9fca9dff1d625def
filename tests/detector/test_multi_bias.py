"""The multi-bias layer: its numbers, what of the study's variant is left, counts, and what becomes of it elsewhere."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from detpress.adapters.inc_weight_only import pack_weights
from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.kinds import Convolution, MultiBias, Yolo
from detpress.detector.kinds.multi_bias import ManyBiases, starting_biases
from detpress.detector.layer import FeatureMap
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.packed import Packed
from detpress.encodings.simulated import simulated_network
from detpress.measure.size import layer_table
from detpress.runtimes.opening import open_runtime


def test_four_biases_make_four_maps_of_one() -> None:
    layer = MultiBias(4, "wide", shared=False, batch_normalize=False, activation="relu")
    taken = [FeatureMap(2, 1, 1)]
    given = layer.module(taken)(torch.tensor([0.25, 0.75]).reshape(1, 2, 1, 1))
    assert given.flatten().tolist() == [1.25, 1.75, 0.75, 1.25, 0, 0.25, 0, 0]
    assert layer.given(taken) == FeatureMap(8, 1, 1)
    assert layer.parameters(taken) == 8
    assert starting_biases(4, "narrow").tolist() == pytest.approx([0.3, 0.1, -0.1, -0.3])
    assert starting_biases(3, "wide").tolist() == [1, 0, -1]


def test_batchnorm_takes_the_studys_biases_out_again() -> None:
    """In training, whatever the biases are, every copy of a map is the same before BatchNorm's scale and shift."""
    module = ManyBiases(3, 4, "normal", shared=True, norm=True, activation="linear")
    assert isinstance(module.norm, nn.BatchNorm2d)
    given = module(torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    for copy in given.split(3, dim=1):
        torch.testing.assert_close(copy, given[:, :3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["multi-bias-tiny", "multi-bias-tiny-study"])
def test_a_detector_of_it_is_counted_saved_and_left_alone_by_pruners(arch: str, tmp_path: Path) -> None:
    model = new_model(build_architecture(arch, ["cat"], 64, width=0.25), seed=0)
    architecture = model.architecture
    whole = build_architecture("yolov3-tiny", ["cat"], 64, width=0.25)
    wide = {layer.filters for layer in whole.layers if isinstance(layer, Convolution) and layer.size == 3}
    rows = layer_table(architecture)
    for before, row, layer in zip(rows, rows[1:], architecture.layers[1:], strict=False):
        if isinstance(layer, MultiBias):
            taken = architecture.taken_maps[before.index][0].channels
            assert row.channels in wide
            assert before.macs == 9 * taken * row.channels // 4 * before.side**2
            assert row.macs == 0
    assert sum(row.parameters for row in rows) == sum(one.numel() for one in model.network.parameters())
    save_bundle(model, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").architecture == architecture
    before_it = {i - 1 for i, layer in enumerate(architecture.layers) if isinstance(layer, MultiBias)}
    assert before_it.isdisjoint(i for group in coupled_convolutions(architecture) for i in group)


def test_a_network_with_simulated_or_packed_convolutions_keeps_its_biases() -> None:
    model = new_model(build_architecture("multi-bias-tiny", ["cat"], 64, width=0.125), seed=0)
    log, kept = logging.getLogger("tests.multi_bias"), model.own_network.get_parameter("layers.1.bias")
    packed = pack_weights(model.own_network, Packed(4, 32, False), [3], "rtn", False, None, log, lambda *_: None)
    for network in (packed, simulated_network(model.own_network, {})):
        assert torch.equal(network.get_parameter("layers.1.bias"), kept)


def test_a_runtime_computes_it() -> None:
    """By the ONNX file that PyTorch's exporter writes."""
    bias = MultiBias(4, "narrow", shared=False, batch_normalize=False, activation="relu")
    head = (Convolution(18, size=1, batch_normalize=False, activation="linear"), Yolo(((8, 8), (16, 16), (32, 32))))
    layers = (Convolution(4, size=3, stride=8), bias, *head)
    model = new_model(Architecture("few", layers, ("cat",), image_size=32), seed=0)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = model.network(image)
        for one, other in zip(maps, open_runtime("onnxruntime", model, 1, 1).run(image), strict=True):
            assert float((one - other).abs().max()) <= 1e-4 * float(one.abs().max())
