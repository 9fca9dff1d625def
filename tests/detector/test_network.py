"""The published networks, layer by layer as Darknet numbers them, and what is built from their lists."""

import json
from typing import Any

import pytest
import torch
from torch import fx

from detpress.detector.architecture import (
    Architecture,
    Convolution,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
    build_architecture,
)
from detpress.detector.design import architecture_names
from detpress.detector.kinds.resizing import EdgeMaxPool
from detpress.detector.network import Network, without_memory
from detpress.errors import InputError
from detpress.measure.size import layer_table, macs

COCO = [f"class{i}" for i in range(80)]


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("yolov3", 20, 61_626_049),
        ("yolov3", 80, 61_949_149),
        ("yolov3-tiny", 80, 8_852_366),
        ("yolov3-spp", 80, 62_998_749),
        ("yolo-nano", 20, 2_890_527),  # Salvi and Barros, IJCNN 2021
    ],
)
def test_parameters_of_the_published_networks(name: str, classes: int, expected: int) -> None:
    with without_memory():
        assert parameters(Network(build_architecture(name, COCO[:classes], 416))) == expected


def test_yolo_nanos_multiply_accumulates() -> None:
    """Of github.com/liux0614/yolo_nano at 416 pixels, counted block by block by hand."""
    assert macs(build_architecture("yolo-nano", COCO[:20], 416)) == 2_031_908_624


@pytest.mark.parametrize(
    ("name", "end", "expected", "norms"),
    [
        ("mobile-yolov3", 27, 3_206_976, 2),  # MobileNet 1.0: 4,231,976 with its classifier of 1,000 classes
        ("squeezenet-yolov3", 44, 735_424, 1),  # SqueezeNet 1.0: 1,248,424; a bias a filter, where here is a norm
    ],
)
def test_parameters_of_the_published_backbones(name: str, end: int, expected: int, norms: int) -> None:
    rows = layer_table(build_architecture(name, COCO, 416))[:end]
    filters = sum(row.channels for row in rows if row.type == "convolution")
    assert sum(row.parameters for row in rows) == expected + (2 - norms) * filters


def test_a_network_without_memory_has_the_shapes_of_one_with_weights_and_draws_none() -> None:
    architecture = build_architecture("yolov3-tiny", ("cat",), 32, width=0.0625)
    before = torch.get_rng_state()
    with without_memory():
        network = Network(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    filled = Network(architecture).state_dict()
    assert not any(tensor.is_meta for tensor in filled.values()), "the next one has weights again"
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in filled.items()
    }


@pytest.mark.parametrize(
    ("name", "layers", "heads", "routes"),
    [  # as in yolov3.cfg, yolov3-tiny.cfg, yolov3-spp.cfg, where -4 counts back from the route
        ("yolov3", 107, (81, 93, 105), [(79,), (85, 61), (91,), (97, 36)]),
        ("yolov3-tiny", 24, (15, 22), [(13,), (19, 8)]),
        ("yolov3-spp", 114, (88, 100, 112), [(77,), (77,), (82, 80, 78, 77), (86,), (92, 61), (98,), (104, 36)]),
    ],
)
def test_layers_have_darknets_numbers(
    name: str, layers: int, heads: tuple[int, ...], routes: list[tuple[int, ...]]
) -> None:
    architecture = build_architecture(name, COCO, 416)
    assert len(architecture.layers) == layers
    assert architecture.heads == heads
    assert [layer.sources for layer in architecture.layers if isinstance(layer, Route)] == routes


@pytest.mark.parametrize("name", architecture_names())
@pytest.mark.parametrize("size", [64, 96])
def test_maps_are_coarse_to_fine_and_hold_an_anchors_numbers_in_each_cell(name: str, size: int) -> None:
    network = Network(build_architecture(name, ["a", "b"], size, width=1 / 32)).eval()
    strides = (32, 16) if "tiny" in name else (32, 16, 8)
    with torch.inference_mode():
        maps = network(torch.rand(2, 3, size, size))
    assert [tuple(each.shape) for each in maps] == [(2, 3 * (5 + 2), size // s, size // s) for s in strides]


@pytest.mark.parametrize("name", architecture_names())
def test_is_traced_by_fx_and_the_trace_gives_the_same_bits(name: str) -> None:
    network = Network(build_architecture(name, ["a"], 64, width=1 / 32)).eval()
    traced = fx.symbolic_trace(network)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        for one, other in zip(network(images), traced(images), strict=True):
            assert torch.equal(one, other)


def test_width_multiplies_every_layers_filters_but_the_heads() -> None:
    full, half = (build_architecture("yolov3", COCO, 416, width=width) for width in (1.0, 0.5))
    for i, (one, other) in enumerate(zip(full.layers, half.layers, strict=True)):
        if isinstance(one, Convolution) and isinstance(other, Convolution):
            assert other.filters == (one.filters if i in full.heads else one.filters // 2)
        elif not isinstance(one, Yolo):
            assert one == other


def test_the_published_anchors_are_scaled_to_the_image_size() -> None:
    coarse = build_architecture("yolov3", COCO, 416).yolo_layers[0]
    assert coarse.anchors == ((116, 90), (156, 198), (373, 326))
    assert build_architecture("yolov3", COCO, 832).yolo_layers[0].anchors == ((232, 180), (312, 396), (746, 652))


@pytest.mark.parametrize("name", architecture_names())
def test_an_architecture_comes_back_from_json(name: str) -> None:
    architecture = build_architecture(name, ["a", "b"], 160, width=0.3, resize="stretch")
    assert Architecture.from_dict(json.loads(json.dumps(architecture.as_dict()))) == architecture


def test_pooling_at_stride_1_is_darknets_which_pads_right_and_below_with_minus_infinity() -> None:
    image = torch.tensor([[[[-3.0, -1.0], [-2.0, -4.0]]]])
    assert EdgeMaxPool(size=2, stride=1, before=0, behind=1)(image).tolist() == [[[[-1.0, -1.0], [-2.0, -4.0]]]]


@pytest.mark.parametrize("size", [0, -32, 100, 416 + 16])
def test_refuses_an_image_size_that_is_no_multiple_of_32(size: int) -> None:
    with pytest.raises(InputError, match=f"image size {size}: expected a positive multiple of 32"):
        build_architecture("yolov3", ["a"], size)


def test_refuses_an_unknown_name_and_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown architecture 'yolov3tiny'; did you mean 'yolov3-tiny'"):
        build_architecture("yolov3tiny", ["a"], 416)


def test_refuses_the_wrong_number_of_anchors() -> None:
    with pytest.raises(InputError, match="yolov3-tiny takes 6 anchors, not 1"):
        build_architecture("yolov3-tiny", ["a"], 416, anchors=[(10, 10)])


HEAD = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Convolution(8, 3), Shortcut(0), Shortcut(2), *HEAD), r"layer 2: takes layers \[2\]; expected layers before"),
        ((Route(()), *HEAD), "layer 0: takes layers"),
        (
            (Convolution(8, 3), Convolution(4, 1, stride=2), Shortcut(0), *HEAD),
            "layer 2: cannot add 8 channels of 64 x 64 of layer 0 to 4 channels of 32 x 32",
        ),
        ((Convolution(7, 1), HEAD[1]), "layer 1: a yolo layer of these anchors and classes follows 6 filters"),
        ((MaxPool(2, 2),), "has no yolo layer"),
    ],
)
def test_refuses_layers_that_make_no_network(layers: tuple[Convolution | Shortcut | Route, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture("yolov3", layers, ("cell",), 64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"architecture: expected an object, got \[\]"),
        ({}, "architecture: name is missing"),
        ({"layers": [{"type": "convolutions"}]}, "layer 0: unknown layer 'convolutions'; did you mean 'convolution'"),
        ({"layers": [{"type": "upsample"}]}, "layer 0: stride is missing"),
        ({"layers": [{"type": "upsample", "stride": 2, "pickle": 1}]}, "layer 0: unknown key 'pickle'"),
        ({"layers": [{"type": "upsample", "stride": 2}] * 1001}, "layers: expected a list of at most 1000"),
        ({"layers": [{"type": "upsample", "stride": 32}] * 3}, "layer 1: gives 3 channels of 65536 x 65536 pixels"),
    ],
)
def test_refuses_data_that_describes_no_network(data: Any, message: str) -> None:
    rest = {"name": "yolov3", "classes": ["cell"], "image_size": 64, "resize": "letterbox"} if data else {}
    with pytest.raises(InputError, match=message):
        Architecture.from_dict({**rest, **data} if isinstance(data, dict) else data)


@pytest.mark.parametrize("kind", ["convolution", "shortcut", "route", "upsample", "maxpool", "yolo"])
def test_every_key_of_a_layer_is_required(kind: str) -> None:
    """A stride that is missing would else be 1, and the network another one."""
    data = json.loads(json.dumps(build_architecture("yolov3-spp", ["cell"], 64, width=0.0625).as_dict()))
    i, layer = next((i, layer) for i, layer in enumerate(data["layers"]) if layer["type"] == kind)
    for key in layer.keys() - {"type"}:
        data["layers"][i] = {other: value for other, value in layer.items() if other != key}
        with pytest.raises(InputError, match=f"^layer {i}: {key} is missing"):
            Architecture.from_dict(data)


def test_maps_that_no_memory_holds_are_refused() -> None:
    layers = (Convolution(64, 3), Upsample(32), Upsample(32), MaxPool(32, 32), MaxPool(32, 32), *HEAD)
    with pytest.raises(InputError, match=r"^layer 2: gives 64 channels of 32768 x 32768 pixels; expected at most"):
        Architecture("wide", layers, ("cell",), 32)


def test_maps_of_different_sizes_are_not_concatenated() -> None:
    with pytest.raises(InputError, match=r"^layer 2: cannot concatenate maps with sides of \[32, 64\] pixels"):
        Architecture("torn", (Convolution(8, 3), MaxPool(2, 2), Route((0, 1)), *HEAD), ("cell",), 64)
