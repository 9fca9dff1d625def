"""Mixed precision: the real INC says which convolutions, our network computes the same bits without it."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detpress.adapters.inc_half import to_half_precision
from detpress.detector.architecture import Convolution
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.encodings.bundle import bundle_bytes, load_bundle, save_bundle
from detpress.encodings.half import Half, HalfConvolution, HalfType
from detpress.encodings.in_float import in_float
from detpress.errors import InputError, StageError
from detpress.measure.size import storage_bytes
from detpress.runtimes.opening import open_runtime

LOG = logging.getLogger("tests.inc_half")
LOG.addHandler(logging.NullHandler())


def half(model: Model, images: Tensor, dtype: HalfType, float_layers: tuple[int, ...] = ()) -> Model:
    return model.with_network(to_half_precision(model.network, dtype, float_layers, images, LOG), Form.HALF)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_the_bundle_gives_the_bits_of_incs_network_and_is_half_as_large(
    dense_model: Model, images: Tensor, dtype: HalfType, tmp_path: Path
) -> None:
    # `to_half_precision` itself holds its result against INC's, bit for bit
    model = half(dense_model, images[:2], dtype, dense_model.architecture.heads)
    save_bundle(model, tmp_path / "half")
    save_bundle(dense_model, tmp_path / "dense")
    again = load_bundle(tmp_path / "half")
    with torch.inference_mode():
        for one, other in zip(model.network(images), again.network(images), strict=True):
            assert torch.equal(one, other)
            assert other.dtype is torch.float32
    blocks = {
        i
        for i, layer in enumerate(again.architecture.layers)
        if isinstance(layer, Convolution)
        and isinstance(again.network.get_submodule(f"layers.{i}.convolution"), HalfConvolution)
    }
    every = {i for i, layer in enumerate(dense_model.architecture.layers) if isinstance(layer, Convolution)}
    assert (
        blocks
        == {i for i, layer in again.encodings.items() if layer == Half(dtype)}
        == every - set(dense_model.architecture.heads)
    )
    weights = sum(again.network.get_parameter(f"layers.{i}.convolution.weight").numel() for i in blocks)
    sizes = storage_bytes(model)
    assert sizes["half"] == sizes["dense_fp32"] - 2 * weights
    assert bundle_bytes(tmp_path / "half") < bundle_bytes(tmp_path / "dense") - 1.9 * weights


def test_every_runtime_says_what_it_computes_in(dense_model: Model, images: Tensor) -> None:
    model = half(dense_model, images[:1], "bf16")
    assert isinstance(model.network, Network)
    rounded = dense_model.with_network(in_float(model.network))
    eager, openvino, onnxruntime = (open_runtime(name, model) for name in ("torch", "openvino", "onnxruntime"))
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (eager.precision, onnxruntime.precision) == ("bf16", "fp32")
    assert openvino.precision == ("bf16" if bf16 else "fp32")
    for one, other in zip(onnxruntime.run(images), open_runtime("torch", rounded).run(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_numbers_beyond_16_bits_are_an_error(dense_model: Model, images: Tensor) -> None:
    network = copy.deepcopy(dense_model.network)
    with torch.no_grad():
        network.get_parameter(f"layers.{dense_model.architecture.heads[0]}.convolution.bias").fill_(1e5)
    with pytest.raises(StageError, match="not finite in fp16"):
        to_half_precision(network, "fp16", (), images[:1], LOG)


def test_all_in_float_is_an_error(dense_model: Model, images: Tensor) -> None:
    with pytest.raises(StageError, match="no convolution into 16 bits"):
        half(dense_model, images[:1], "bf16", tuple(range(len(dense_model.architecture.layers))))


@pytest.mark.parametrize("description", [{}, {"dtype": "fp8"}, {"dtype": None}, {"dtype": "bf16", "layers": [0]}])
def test_a_description_of_no_precision_is_refused(description: dict) -> None:
    with pytest.raises(InputError):
        Half.from_dict("here", description)


def test_only_convolutions_can_be_in_16_bits(dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"layers\.4: encoded as Half, but not a convolution"):
        Network(dense_model.architecture, {4: Half("bf16")})
