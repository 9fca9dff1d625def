"""Dynamic quantization: the bits of the real INC's program, in a network that needs it no more."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detpress.adapters.inc_dynamic import quantize_dynamic
from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.dynamic_int8 import DynamicInt8, rounded
from detpress.errors import InputError, StageError
from detpress.measure.size import storage_bytes
from detpress.runtimes.opening import open_runtime

LOG = logging.getLogger("tests.inc_dynamic")
LOG.addHandler(logging.NullHandler())


@pytest.fixture(scope="module")
def tiny() -> Model:
    model = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
    model.network.requires_grad_(False)
    return model


@pytest.mark.parametrize(("per_channel", "in_float"), [(True, (0,)), (False, ())])
def test_the_bundle_gives_the_bits_of_incs_program(
    tiny: Model, images: Tensor, per_channel: bool, in_float: tuple[int, ...], tmp_path: Path
) -> None:
    # `quantize_dynamic` itself holds its result against INC's, bit for bit
    network = quantize_dynamic(tiny.network, tiny.architecture, images[:2], per_channel, in_float, LOG)
    assert list(network.encodings.values()).count(DynamicInt8()) == 13 - len(in_float)
    model = tiny.with_network(network, Form.SIMULATED)
    save_bundle(model, tmp_path / "bundle")
    again = load_bundle(tmp_path / "bundle")
    assert DynamicInt8() in again.encodings.values()
    with torch.inference_mode():
        for one, other, dense in zip(network(images), again.network(images), tiny.network(images), strict=True):
            assert torch.equal(one, other)
            assert (one - dense).square().mean() < 0.05 * dense.square().mean()
    sizes = storage_bytes(again)
    assert sizes["int8"] < 0.3 * sizes["dense_fp32"]


@pytest.mark.parametrize(("name", "precision"), [("onnxruntime", "int8"), ("openvino", "fp32")])
def test_onnxruntime_executes_it_in_integers_and_openvino_says_that_it_does_not(
    tiny: Model, images: Tensor, name: str, precision: str
) -> None:
    network = quantize_dynamic(tiny.network, tiny.architecture, images[:1], True, (), LOG)
    runtime = open_runtime(name, tiny.with_network(network, Form.SIMULATED), threads=1)
    assert runtime.precision == precision
    with torch.inference_mode():
        for one, other in zip(network(images[:1]), runtime.run(images[:1]), strict=True):
            noise = (one - other).square().mean() / one.var()
            assert float(noise) < 1e-3, "a value at the half is rounded otherwise here and there"


def test_values_are_rounded_by_the_range_that_they_have() -> None:
    assert rounded(torch.tensor([0.0, 25.5, 10.04, 10.06])).tolist() == pytest.approx([0, 25.5, 10.0, 10.1], abs=1e-5)
    assert rounded(torch.tensor([-1.0, 254.0, 0.4])).tolist() == [-1.0, 254.0, 0.0]
    assert rounded(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_all_in_float_is_an_error(tiny: Model, images: Tensor) -> None:
    every = range(len(tiny.architecture.layers))
    with pytest.raises(StageError, match="INC quantized no convolution"):
        quantize_dynamic(tiny.network, tiny.architecture, images[:1], True, every, LOG)


def test_only_convolutions_can_be_quantized(dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"layers\.4: encoded as DynamicInt8, but not a convolution"):
        Network(dense_model.architecture, {4: DynamicInt8()})
