"""What NNCF has written into an OpenVINO graph, by layer number.

    input ----> FakeQuantize(low, high) ----> Convolution ----> Add(bias) ----> ...
    constant in 8 bits -> Convert [-> Subtract(zero)] -> Multiply(scale) ----^

The graph is made of a network whose BatchNorms are folded; so OpenVINO fuses nothing into a convolution, and it is
called by the module that it was: `__module.layers.4.convolution/...`.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
import torch
from detpress.api import InputScale, Network, int8_network
from torch import Tensor

PASSED_THROUGH = ("Concat", "MaxPool", "Pad", "Interpolate", "StridedSlice", "Slice", "Reshape", "Convert")


@dataclass(frozen=True)
class Convolution:
    """codes: (F, I, k, k), the numbers that stand in the graph. zero, scale: float32 (F,), or None where they are float.

    bias: float32 (F,). input: how its input is rounded, if it is.
    """

    codes: Tensor
    zero: Tensor
    scale: Tensor | None
    bias: Tensor
    input: InputScale | None

    @property
    def weight(self) -> Tensor:
        """float32 (F, I, k, k)."""
        if self.scale is None:
            return self.codes
        codes = self.codes - self.zero[:, None, None, None]
        return codes * self.scale[:, None, None, None]


def in_openvino(network: Network, images: Tensor) -> openvino.Model:
    """`network` as a graph for any number of images, BatchNorm folded in."""
    folded = int8_network(network, {}, images[:1])  # no convolution in int8
    return openvino.convert_model(folded, example_input=images[:1])


def convolutions(graph: openvino.Model) -> dict[int, Convolution]:
    """By layer number."""
    found = {}
    for node in graph.get_ordered_ops():
        name = re.search(r"layers\.(\d+)\.convolution/", node.get_friendly_name())
        if name and node.get_type_name() in ("Convolution", "GroupConvolution"):
            found[int(name[1])] = _read(node)
    return found


def _read(node: Any) -> Convolution:
    codes, zero, scale = _weight(_source(node, 1))
    grouped = node.get_type_name() == "GroupConvolution"  # (groups, F / groups, I, k, k)
    shape = (-1, *codes.shape[2 if grouped else 1 :])

    def one_a_filter(numbers: Any) -> Tensor:
        every = np.broadcast_to(numbers, codes.shape).reshape(*shape)
        return torch.tensor(every[:, 0, 0, 0].astype(np.float32))

    weight = torch.tensor(codes.reshape(*shape).astype(np.float32))
    return Convolution(
        weight,
        one_a_filter(zero),
        None if scale is None else one_a_filter(scale),
        _bias(node, len(weight)),
        _rounding(_source(node, 0)),
    )


def _weight(node: Any) -> tuple[Any, Any, Any]:
    """Numbers, zero and scale; no scale where nothing is quantized."""
    node = _without(node, "Convert")
    if node.get_type_name() != "Multiply":
        return _constant(node), 0, None
    codes, scale, zero = _without(_source(node, 0), "Convert"), _constant(_source(node, 1)), 0
    if codes.get_type_name() == "Subtract":
        codes, zero = _without(_source(codes, 0), "Convert"), _constant(_source(codes, 1))
    return _constant(codes), zero, scale


def _bias(node: Any, filters: int) -> Tensor:
    """OpenVINO leaves out the addition of zeros."""
    for user in node.output(0).get_target_inputs():
        if user.get_node().get_type_name() == "Add":
            other = _without(_source(user.get_node(), 1), "Convert", "Reshape")
            if other.get_type_name() == "Constant" and other.get_data().size == filters:
                return torch.tensor(other.get_data().astype(np.float32).reshape(-1))
    return torch.zeros(filters)


def _rounding(node: Any) -> InputScale | None:
    """The FakeQuantize above, through what moves numbers about; of several parts, the range that holds all."""
    ranges = _ranges(node)
    if None in ranges:
        return None
    low, high = min(r[0] for r in ranges if r), max(r[1] for r in ranges if r)
    scale = (high - low) / 255
    return InputScale(scale, min(255, max(0, round(-low / scale))))


def _ranges(node: Any) -> list[tuple[float, float] | None]:
    kind = node.get_type_name()
    if kind == "FakeQuantize":
        return [(float(_constant(_source(node, 3))), float(_constant(_source(node, 4))))]
    if kind in PASSED_THROUGH:
        parts = node.get_input_size() if kind == "Concat" else 1
        return [found for i in range(parts) for found in _ranges(_source(node, i))]
    return [None]


def _source(node: Any, number: int) -> Any:
    return node.input_value(number).get_node()


def _without(node: Any, *kinds: str) -> Any:
    while node.get_type_name() in kinds:
        node = _source(node, 0)
    return node


def _constant(node: Any) -> Any:
    return _without(node, "Convert").get_data()
