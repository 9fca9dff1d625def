"""The kinds of layers: what each computes, counts and says of itself in a file."""

import json
import math
from typing import Any

import pytest
import torch

from detpress.detector.architecture import Architecture
from detpress.detector.channels import stored_parameters
from detpress.detector.kinds import (
    Activation,
    AveragePool,
    Contrastive,
    Convolution,
    Dropout,
    LocalAveragePool,
    MaxPool,
    Reorg,
    Route,
    Sam,
    ScaleChannels,
    Shortcut,
    Upsample,
    Yolo,
)
from detpress.detector.layer import FeatureMap, Layer
from detpress.detector.layer_kinds import layer_as_dict, layer_from_dict, layer_kinds
from detpress.detector.network import Network
from detpress.errors import InputError
from detpress.measure.size import layer_table

HEAD = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))
EXCITED = (
    Convolution(8, 3, 2, activation="swish"),
    Convolution(8, (5, 1), activation="hard_swish", groups=8),
    AveragePool(),
    Convolution(2, 1, batch_normalize=False, activation="relu"),
    Convolution(8, 1, batch_normalize=False, activation="logistic"),
    ScaleChannels(1),
    Dropout(0.2),
)


def network_of(*layers: Layer) -> Architecture:
    return Architecture("any", (*layers, *HEAD), ("cell",), 64)


@pytest.mark.parametrize(
    ("activation", "given"),
    [
        ("leaky", lambda x: x if x > 0 else 0.1 * x),
        ("relu", lambda x: max(x, 0)),
        ("relu6", lambda x: min(max(x, 0), 6)),
        ("logistic", lambda x: 1 / (1 + math.exp(-x))),
        ("swish", lambda x: x / (1 + math.exp(-x))),
        ("mish", lambda x: x * math.tanh(math.log1p(math.exp(x)))),
        ("hard_swish", lambda x: x * min(max(x + 3, 0), 6) / 6),
        ("linear", lambda x: x),
    ],
)
def test_activations_are_those_of_darknet(activation: Activation, given: Any) -> None:
    layer = Convolution(1, 1, batch_normalize=False, activation=activation)
    module = layer.module([FeatureMap(1, 9)])
    torch.nn.init.ones_(module.convolution.weight)
    torch.nn.init.zeros_(module.convolution.bias)
    numbers = [-7.0, -3.5, -3.0, -1.0, 0.0, 0.5, 3.0, 6.5, 8.0]
    maps = module(torch.tensor(numbers).view(1, 1, 3, 3)).flatten()
    assert maps.tolist() == pytest.approx([given(x) for x in numbers], abs=1e-6)


def test_squeeze_and_excitation_scales_each_channel_by_its_own_number() -> None:
    network = Network(network_of(*EXCITED)).eval()
    seen: dict[int, torch.Tensor] = {}
    for i in (1, 4, 5):
        network.layers[i].register_forward_hook(lambda _, __, given, i=i: seen.update({i: given}))
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    assert seen[4].shape == (2, 8, 1, 1)
    assert torch.equal(seen[5], seen[1] * seen[4].expand_as(seen[1]))


def test_parameters_and_macs_of_each_layer() -> None:
    rows = layer_table(network_of(*EXCITED))
    assert [(row.type, row.channels, row.side, row.parameters, row.macs) for row in rows] == [
        ("convolution", 8, 32, 8 * 3 * 9 + 16, 8 * 3 * 9 * 32**2),
        ("convolution", 8, 32, 8 * 5 + 16, 8 * 5 * 32**2),
        ("avgpool", 8, 1, 0, 0),
        ("convolution", 2, 1, 2 * 8 + 2, 2 * 8),
        ("convolution", 8, 1, 8 * 2 + 8, 8 * 2),
        ("scale_channels", 8, 32, 0, 0),
        ("dropout", 8, 32, 0, 0),
        ("convolution", 6, 32, 6 * 8 + 6, 6 * 8 * 32**2),
        ("yolo", 6, 32, 0, 0),
    ]
    assert stored_parameters(network_of(*EXCITED)) == sum(row.parameters for row in rows)


NEWER = (
    Convolution(8, 3, dilation=2),
    Convolution(8, 2, pad=0),
    Reorg(3),
    MaxPool(3, 3, padding=0),
    Route((0,), groups=2, group=1),
    LocalAveragePool(3, 1),
    Shortcut(0, activation="leaky"),
    MaxPool(6, 1),
    Sam(6, activation="relu"),
    Route((8, 0), groups=4, group=3),
    Contrastive(),
)


@pytest.mark.parametrize("layers", [EXCITED, NEWER])
def test_every_kind_comes_back_from_json(layers: tuple[Layer, ...]) -> None:
    architecture = network_of(*layers, Upsample(2))
    assert Architecture.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture


def test_what_is_as_usual_is_not_written() -> None:
    layers = Convolution(8, 3), Shortcut(0), Route((0, 1)), MaxPool(2, 2), Yolo(((10, 10),))
    assert [layer.as_dict() for layer in layers[1:]] == [
        {"source": 0},
        {"sources": (0, 1)},
        {"size": 2, "stride": 2},
        {"anchors": ((10, 10),)},
    ]
    assert list(layers[0].as_dict()) == ["filters", "size", "stride", "batch_normalize", "activation", "groups"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "maxpol"}, "layer 4: unknown layer 'maxpol'; did you mean 'maxpool'"),
        ({"type": ["maxpool"]}, "layer 4: expected an object with a type, got {'type': "),
        ([], r"layer 4: expected an object with a type"),
        ({"type": "dropout", "probability": 1}, "layer 4: probability: expected a number from 0 to below 1, got 1"),
        ({"type": "scale_channels", "source": True}, "layer 4: source: expected the number of a layer, got True"),
        ({"type": "avgpool", "size": 2}, "layer 4: unknown key 'size'"),
    ],
)
def test_what_describes_no_layer_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        layer_from_dict("layer 4", data)


def test_a_stride_of_each_direction_is_that_of_the_map_and_in_the_file() -> None:
    layers = Convolution(8, (3, 1), stride=(2, 1), pad=(1, 0)), Convolution(8, (1, 3), stride=(1, 2))
    architecture = network_of(*layers)
    assert [(given.height, given.width) for given in architecture.output_maps[:2]] == [(32, 64), (32, 32)]
    assert Architecture.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture


@pytest.mark.parametrize("size", [[3], [3, 1, 1], [3, 0], "3", [True, 1]])
def test_a_size_is_a_number_or_a_pair(size: Any) -> None:
    with pytest.raises(InputError, match=r"^layer 4: size: expected a whole number"):
        layer_from_dict("layer 4", layer_as_dict(Convolution(8, 3)) | {"size": size})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Convolution(8, (2, 1)),), "the maps of the yolo layers have another shape than the images"),
        (
            (Convolution(8, 3, stride=2), Convolution(8, 1, stride=2), Sam(0)),
            "layer 2: cannot multiply 8 channels of 32",
        ),
        ((Convolution(8, 3), Convolution(4, 1), Sam(0)), "layer 2: cannot multiply 8 channels of 64 x 64"),
        ((Convolution(8, 3), Route((0,), groups=3)), "layer 1: cannot take part 0 of 3 equal parts of 8 channels"),
        ((MaxPool(9, 8), Reorg(3)), "layer 1: cannot cut 3 channels of 8 x 8 into squares of 3 x 3"),
        ((Convolution(8, 63, pad=0), Convolution(8, 3, pad=0)), "layer 1: gives 8 channels of 0 x 0 pixels"),
        ((Convolution(8, 3), Convolution(8, 1), ScaleChannels(0)), "layer 2: cannot scale 8 channels of 64 x 64"),
        ((Convolution(8, 3), AveragePool(), Convolution(4, 1), ScaleChannels(0)), "layer 3: cannot scale 8 channels"),
    ],
)
def test_maps_that_do_not_go_together_are_refused(layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        network_of(*layers)


def test_a_kind_that_nobody_registered_is_not_written() -> None:
    class Unknown(Upsample):
        pass

    with pytest.raises(InputError, match=r"Unknown could not be read again: expected an entry point of "):
        network_of(Unknown()).as_dict()


def test_all_built_in_kinds_come_by_the_door() -> None:
    assert {kind.__name__ for kind in layer_kinds().values()} >= {type(layer).__name__ for layer in (*EXCITED, *HEAD)}
