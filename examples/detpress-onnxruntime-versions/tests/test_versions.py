"""The contract with detpress, on small detectors, and which versions did the work.

The environments must be there: detpress plugins install onnxruntime_1_17.static onnxruntime_1_20.static
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from detpress.testing import PluginCheck, checks_of

from detpress_onnxruntime_versions.inside import chosen

TRIED: Mapping[str, dict[str, Any]] = {
    f"onnxruntime_{version}.static": {"calibration_images": 8, "method": method}
    for version, method in (("1_17", "minmax"), ("1_20", "entropy"))
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{check}")
        for name, options in TRIED.items()
        for check in checks_of(name, options)
    ],
)
def test_each_version_keeps_the_promises(check: PluginCheck) -> None:
    check()


def test_scales_are_read_off_the_graph_where_input_and_weights_are_in_integers() -> None:
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        make("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        make("DequantizeLinear", ["w", "scales", "zeros"], ["weight"], axis=0),
        make("Conv", ["x", "weight"], ["y"], name="layers.4.convolution"),
        make("Conv", ["y", "float"], ["z"], name="layers.5.convolution"),
    ]
    numbers: dict[str, np.ndarray[Any, Any]] = {
        "scale": np.array(0.25, np.float32),
        "zero": np.array(3, np.uint8),
        "scales": np.array([0.5, 1.5], np.float32),
        "zeros": np.array([0, 0], np.int8),
    }
    graph = onnx.helper.make_graph(nodes, "", [], [], [tensor(one, name) for name, one in numbers.items()])
    assert chosen(onnx.helper.make_model(graph)) == [
        {"layer": 4, "scale": 0.25, "zero_point": 3, "weight_scales": [0.5, 1.5]}
    ]
