"""An int8 network from scales that somebody else chose, held against the one that its chooser made."""

import logging

import pytest
import torch
from torch import Tensor

from detpress.adapters.inc import Scheme, quantize_static
from detpress.detector.architecture import build_architecture
from detpress.detector.input_scale import InputScale
from detpress.detector.model import new_model
from detpress.encodings.int8 import LARGEST_IN_PAIRS, input_scales
from detpress.encodings.int8_from_scales import int8_network
from detpress.errors import InputError


def test_incs_scales_give_incs_network_but_for_ties(images: Tensor) -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.125), 0).network
    by_inc = quantize_static(
        network, network.architecture, images, Scheme(corrected=False), (), logging.getLogger("tests")
    )
    scales = {i: by_inc.get_buffer(f"layers.{i}.convolution.weight_scale") for i in input_scales(by_inc)}
    found = int8_network(network, input_scales(by_inc), images, scales)
    assert input_scales(found) == input_scales(by_inc)
    state, expected = found.state_dict(), by_inc.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        step = 1 if tensor.dtype == torch.int8 else 1e-5
        assert (tensor.double() - expected[name].double()).abs().max() <= step, name


def test_without_scales_of_weights_a_filters_largest_is_one_that_every_processor_computes(images: Tensor) -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.125), 0).network
    found = int8_network(network, {2: InputScale(0.05, 127)}, images)
    assert found.get_buffer("layers.2.convolution.weight").abs().flatten(1).amax(1).eq(LARGEST_IN_PAIRS).all()
    assert found.get_parameter("layers.0.convolution.weight").dtype == torch.float32


def test_scales_that_do_not_fit_are_refused_by_the_layer(images: Tensor) -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.125), 0).network
    with pytest.raises(InputError, match=r"^layers\.1: encoded as Int8, but not a convolution"):
        int8_network(network, {1: InputScale(0.05, 127)}, images)
    with pytest.raises(InputError, match=r"^layers\.2: weight scales \(3,\); expected 4, none negative$"):
        int8_network(network, {2: InputScale(0.05, 127)}, images, {2: torch.ones(3)})


def test_weights_and_biases_that_their_chooser_changed_are_taken_as_they_are(images: Tensor) -> None:
    network = new_model(build_architecture("yolov3-tiny", ("a",), 64, 0.125), 0).own_network
    filters = len(network.get_parameter("layers.2.convolution.weight"))
    weight = torch.full_like(network.get_parameter("layers.2.convolution.weight"), 0.5)
    bias = torch.arange(float(filters))
    scales = {2: torch.full((filters,), 0.25)}
    found = int8_network(network, {2: InputScale(0.05, 127)}, images, scales, {2: (weight, bias)})
    assert found.get_buffer("layers.2.convolution.weight").eq(2).all()
    assert torch.equal(found.get_buffer("layers.2.convolution.bias"), bias)
