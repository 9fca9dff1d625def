"""What is read back is what ONNX Runtime chose; and the contract with detpress, on small detectors."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from detpress.api import Model, build_architecture, folded_weight, new_model, onnx_model
from detpress.testing import PluginCheck, checks_of
from torch import Tensor

from detpress_onnxruntime.engine import quantized, quantized_dynamically
from detpress_onnxruntime.quantizing import StaticOptions

LOG = logging.getLogger("tests")


@pytest.fixture
def images() -> Tensor:
    """Some number is 1, none is smaller than 0."""
    found = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found[0, 0, 0, 0] = 1
    return found


@pytest.fixture
def model() -> Model:
    return new_model(build_architecture("yolov3-tiny", ("a", "b"), 64, 0.125), seed=0)


@pytest.mark.parametrize(("full_range", "steps"), [(False, 63.5), (True, 127.5)])
def test_a_filters_scale_is_its_largest_weight_by_the_number_of_steps(
    model: Model, images: Tensor, tmp_path: Path, full_range: bool, steps: float
) -> None:
    network = quantized(model, images, StaticOptions(full_range=full_range), tmp_path, LOG).network
    for i in (0, 2, 8):
        largest = folded_weight(model.own_network, i)[0].abs().flatten(1).amax(1)
        scale = network.get_buffer(f"layers.{i}.convolution.weight_scale")
        torch.testing.assert_close(scale, largest / steps, rtol=0.01, atol=0)


def test_the_images_range_is_what_was_seen(model: Model, images: Tensor, tmp_path: Path) -> None:
    encoding: Any = quantized(model, images, StaticOptions(), tmp_path, LOG).encodings[0]
    assert encoding.input.zero_point == 0
    assert encoding.input.scale == pytest.approx(1 / 255)


def test_entropy_has_no_other_range_to_choose_than_minmax(model: Model, images: Tensor, tmp_path: Path) -> None:
    one, other = (
        quantized(model, images, options, tmp_path, LOG).network
        for options in (StaticOptions(method="minmax"), StaticOptions(method="entropy"))
    )
    assert one.encodings == other.encodings


def test_the_dynamic_graph_computes_what_onnx_runtimes_own_computes(
    model: Model, images: Tensor, tmp_path: Path
) -> None:
    """Bit for bit there; nearly so in PyTorch, where the network computes in float."""
    found = quantized_dynamically(model, False, tmp_path, LOG)
    own, again = (
        onnxruntime.InferenceSession(graph).run(None, {"images": images.numpy()})
        for graph in ((tmp_path / "int8.onnx").read_bytes(), onnx_model(found).SerializeToString())
    )
    with torch.no_grad():
        rows = zip(own, again, found.network(images), model.network(images), strict=True)
    for of_own, of_again, rounded, whole in rows:
        expected = torch.tensor(of_own)
        assert torch.equal(torch.tensor(of_again), expected)
        assert (rounded - expected).square().mean() < 1e-3 * (whole - expected).square().mean()


TRIED: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{
        method: ("onnxruntime.static", {"calibration_images": 8, "method": method})
        for method in ("minmax", "entropy", "percentile")
    },
    "dynamic": ("onnxruntime.dynamic", {}),
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, (plugin, options) in TRIED.items()
        for check in checks_of(plugin, options)
    ],
)
def test_each_way_keeps_the_promises(check: PluginCheck) -> None:
    check()
