"""Sizes against the published networks: Darknet's files and the layer lists of the paper say how large they are."""

import pytest
import torch

from detpress.detector.architecture import build_architecture
from detpress.detector.design import architecture_names
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.measure.size import layer_table, macs, nonzero_parameters, parameter_count, storage_bytes, stored_table


def yolov3(classes: int, image_size: int = 416) -> Network:
    with torch.device("meta"):
        return Network(build_architecture("yolov3", [f"class{i}" for i in range(classes)], image_size))


def test_macs_of_yolov3_with_20_classes() -> None:
    architecture = yolov3(20).architecture
    assert round(macs(architecture) / 1e9, 3) == 32.714
    assert round(macs(architecture, 320) / 1e9, 3) == 19.357
    assert round(macs(architecture, 608) / 1e9, 3) == 69.880


def test_macs_are_those_of_the_convolutions_that_run(dense_model: Model) -> None:
    counted = 0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal counted
        counted += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in dense_model.network.modules() if isinstance(m, torch.nn.Conv2d)]
    dense_model.network(torch.zeros(1, 3, 96, 96))
    for hook in hooks:
        hook.remove()
    assert macs(dense_model.architecture, 96) == counted


@pytest.mark.parametrize("name", architecture_names())
def test_layer_table_says_what_each_layer_gives(name: str) -> None:
    architecture = build_architecture(name, [f"class{i}" for i in range(80)], 96, width=0.25)
    network = Network(architecture).eval()
    given: dict[int, tuple[int, ...]] = {}
    for i, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda _, __, output, i=i: given.update({i: tuple(output.shape[1:])}))
    network(torch.zeros(1, 3, 96, 96))
    rows = layer_table(architecture)
    assert [row.index for row in rows] == list(range(len(architecture.layers)))
    for i, shape in given.items():
        assert (rows[i].channels, rows[i].side, rows[i].side) == shape, rows[i]
    assert sum(row.parameters for row in rows) == parameter_count(network)


def test_parameters_of_yolov3() -> None:
    assert parameter_count(yolov3(20)) == 61_626_049
    assert parameter_count(yolov3(80)) == 61_949_149


def test_float_storage_is_that_of_darknets_file_without_its_header() -> None:
    assert storage_bytes(Model(yolov3(80)))["dense_fp32"] == 248_007_048 - 20


def test_zeros_are_stored_but_not_counted_as_nonzero(dense_model: Model) -> None:
    model = dense_model.with_network(Network(dense_model.architecture))
    for parameter in model.network.parameters():
        torch.nn.init.ones_(parameter)
    weight = model.network.get_parameter("layers.1.convolution.weight")
    torch.nn.init.zeros_(weight)
    assert parameter_count(model.network) == parameter_count(dense_model.network)
    assert nonzero_parameters(model) == parameter_count(model.network) - weight.numel()


def test_an_int8_weight_is_a_parameter_of_one_byte(dense_model: Model, int8_model: Model) -> None:
    rows = [row for row in layer_table(dense_model.architecture) if row.type == "convolution"]
    filters = sum(row.channels for row in rows)
    norms = sum(row.channels for row in rows if row.index not in dense_model.architecture.heads)
    parameters = parameter_count(dense_model.network) - norms  # BatchNorm's scale is in the weights
    assert parameter_count(int8_model.network) == parameters == sum(row.parameters for row in stored_table(int8_model))
    assert 0.9 * parameters < nonzero_parameters(int8_model) <= parameters
    assert storage_bytes(int8_model) == {
        "dense_fp32": 4 * parameters,
        "int8": (parameters - filters) + 4 * filters + 4 * filters,  # weights, biases, scales
    }
