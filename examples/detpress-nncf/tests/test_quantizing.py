"""What is read back is what NNCF chose; and the contract with detpress, on small detectors."""

import logging
from collections.abc import Mapping
from typing import Any

import openvino
import pytest
import torch
from detpress.api import Model, build_architecture, folded_weight, int8_network, new_model
from detpress.testing import PluginCheck, checks_of
from torch import Tensor

from detpress_nncf.engine import from_graph, quantized_graph, with_small_weights
from detpress_nncf.graph import convolutions, in_openvino
from detpress_nncf.quantizing import QuantizingOptions

LOG = logging.getLogger("tests")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Model:
    """YOLOv3-tiny adds nothing, so that NNCF rounds for convolutions alone. Its BatchNorms shift."""
    found = new_model(build_architecture("yolov3-tiny", ("a", "b"), 64, 0.125), seed=0)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in found.network.named_parameters():
        if name.endswith("norm.bias"):
            parameter.data.uniform_(-0.5, 0.5, generator=draw)
    return found


def test_a_float_graph_has_the_folded_weights_and_biases(model: Model, images: Tensor) -> None:
    network = model.own_network
    read = convolutions(in_openvino(network, images))
    assert len(read) == 13
    for i, one in read.items():
        weight, bias = folded_weight(network, i)
        assert one.scale is None
        assert one.input is None
        assert torch.equal(one.weight, weight)
        assert torch.equal(one.bias, bias)


def test_the_network_computes_what_nncfs_graph_computes(model: Model, images: Tensor) -> None:
    """To the last bits of the coarse map; what is beside the upsampled map in the other has been rounded twice there."""
    graph = quantized_graph(model.own_network, images, QuantizingOptions())
    network = from_graph(model, graph, images, LOG).network
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = [torch.from_numpy(raw.copy()) for raw in compiled(images.numpy()).values()]
    with torch.no_grad():
        rows = zip(network(images), expected, model.network(images), (1e-6, 0.2), strict=True)
    for one, other, whole, share in rows:
        rounding, noise = (whole - other).square().mean(), (one - other).square().mean()
        assert noise < share * rounding


def test_weights_of_8_bits_are_off_by_half_a_step(model: Model, images: Tensor) -> None:
    """Of 255 steps over a filter's weights; or of 128 up to its largest, which -128 stands for."""
    for symmetric in (True, False):
        found = int8_network(with_small_weights(model.own_network, images, symmetric, LOG), {}, images)
        for i in range(0, 13, 2):
            rows, (other, _) = folded_weight(model.own_network, i)[0].flatten(1), folded_weight(found, i)
            if symmetric:
                step = rows.abs().amax(1, keepdim=True) / 128
                largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
                rows = rows.where(rows / -largest < 127.5 / 128, -largest * 127 / 128)  # there is no +128
            else:
                step = (rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True)) / 255
            assert ((other.flatten(1) - rows).abs() <= 0.56 * step).all()  # scales have 11 bits


TRIED: Mapping[str, dict[str, Any]] = {
    "ptq": {"calibration_images": 8},
    "accuracy_control": {"calibration_images": 8, "max_drop": 0.5},
    "weight_compression": {},
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, options in TRIED.items()
        for check in checks_of(f"nncf.{name}", options)
    ],
)
def test_each_plugin_keeps_its_promises(check: PluginCheck) -> None:
    check()
