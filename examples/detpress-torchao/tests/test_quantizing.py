"""What is read back is what torchao chose; and the contract with detpress, on small detectors."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from detpress.api import Model, build_architecture, folded_weight, new_model
from detpress.testing import PluginCheck, checks_of
from torch import Tensor

from detpress_torchao.programs import fake_quantized, quantized, with_weights_of

LOG = logging.getLogger("tests")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Model:
    return new_model(build_architecture("yolov3-tiny", ("a", "b"), 64, 0.125), seed=0)


@pytest.mark.parametrize(("full_range", "steps"), [(False, 63.5), (True, 127.5)])
def test_a_filters_scale_is_its_largest_weight_by_the_number_of_steps(
    model: Model, images: Tensor, full_range: bool, steps: float
) -> None:
    network = quantized(model, images, full_range, LOG).network
    for i in (0, 2, 8):
        largest = folded_weight(model.own_network, i)[0].abs().flatten(1).amax(1)
        scale = network.get_buffer(f"layers.{i}.convolution.weight_scale")
        torch.testing.assert_close(scale, largest / steps)


def test_the_images_range_is_what_was_seen(model: Model, images: Tensor) -> None:
    encoding: Any = quantized(model, images, False, LOG).encodings[0]
    assert encoding.input.zero_point == 0
    assert encoding.input.scale == pytest.approx(1 / 255, rel=0.02)


def test_what_was_trained_comes_back_into_the_network(model: Model) -> None:
    given = copy.deepcopy(model.own_network)
    prepared = fake_quantized(given, False, LOG)
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.add_(1)
    found = with_weights_of(given, prepared)
    for name, parameter in given.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter + 1)


TRIED: Mapping[str, dict[str, Any]] = {
    "static": {"calibration_images": 8},
    "qat": {"calibration_images": 8, "epochs": 2},
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, options in TRIED.items()
        for check in checks_of(f"torchao.{name}", options)
    ],
)
def test_each_plugin_keeps_its_promises(check: PluginCheck) -> None:
    check()
