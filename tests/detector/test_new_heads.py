"""A detector for other classes: what of a head is new, and that nothing else is."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Convolution, Route, Yolo, build_architecture
from detpress.detector.model import Model, new_model
from detpress.detector.new_heads import with_new_heads
from detpress.errors import InputError

CELLS = ["red", "white", "platelet", "other"]


@pytest.fixture(scope="module")
def model() -> Model:
    """Two heads of three anchors each, with options of newer yolo layers, and an input that is no square."""
    given = build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.1)
    layers = [
        replace(layer, scale_x_y=1.05, new_coords=True) if isinstance(layer, Yolo) else layer for layer in given.layers
    ]
    return new_model(replace(given, layers=tuple(layers), image_size=(64, 96)), seed=1)


def parts(model: Model, head: bool) -> dict[str, Tensor]:
    heads = tuple(f"layers.{i}." for i in model.architecture.heads)
    return {name: tensor for name, tensor in model.network.state_dict().items() if name.startswith(heads) is head}


def test_with_the_same_anchors_only_the_filters_of_classes_are_new(model: Model) -> None:
    found = with_new_heads(model, CELLS, None, seed=3)
    new = new_model(found.architecture, seed=3)
    for name, tensor in parts(model, head=False).items():
        assert torch.equal(found.network.state_dict()[name], tensor)
    for name, tensor in parts(found, head=True).items():
        rows = tensor.unflatten(0, (3, 9))
        assert torch.equal(rows[:, :5], model.network.state_dict()[name].unflatten(0, (3, 7))[:, :5])
        assert torch.equal(rows[:, 5:], new.network.state_dict()[name].unflatten(0, (3, 9))[:, 5:])
    assert found.architecture.classes == tuple(CELLS)
    assert found.architecture.yolo_layers == model.architecture.yolo_layers
    assert [tuple(raw.shape) for raw in found.network(torch.zeros(1, 3, 64, 96))] == [(1, 27, 2, 3), (1, 27, 4, 6)]


def test_classes_of_the_same_name_keep_their_filters_wherever_they_are(model: Model) -> None:
    found = with_new_heads(model, ["bird", "dog", "cat"], None, seed=3)
    for name, tensor in parts(found, head=True).items():
        rows, given = tensor.unflatten(0, (3, 8)), model.network.state_dict()[name].unflatten(0, (3, 7))
        assert torch.equal(rows[:, [*range(5), 7, 6]], given)
    same = with_new_heads(model, model.architecture.classes, None, seed=3).network.state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in model.network.state_dict().items())


def test_with_other_anchors_heads_are_those_of_a_new_network_and_small_boxes_go_to_the_fine_map(model: Model) -> None:
    anchors = [(float(size), float(size)) for size in range(4, 10)]
    found = with_new_heads(model, CELLS, anchors, seed=3)
    coarse, fine = found.architecture.yolo_layers
    assert (*fine.anchors, *coarse.anchors) == tuple(anchors)
    assert fine.new_coords
    assert fine.scale_x_y == 1.05
    new = new_model(found.architecture, seed=3).network.state_dict()
    assert all(torch.equal(tensor, new[name]) for name, tensor in parts(found, head=True).items())
    assert all(torch.equal(found.network.state_dict()[name], own) for name, own in parts(model, head=False).items())


def test_the_model_itself_stays_as_it_was_and_the_history_tells(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    found = with_new_heads(model, CELLS, None, seed=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert found.history == ({"plugin": "model", "config": {"classes": CELLS, "anchors": "kept"}},)


def test_a_head_with_batch_normalisation_keeps_its_statistics_of_boxes(model: Model) -> None:
    layers = (Convolution(21, 1, stride=32), Yolo(((9.0, 9.0), (20.0, 20.0), (40.0, 40.0))))
    normed = new_model(Architecture("any", layers, ("cat", "dog"), 64), seed=0)
    normed.network.get_buffer("layers.0.norm.running_mean").copy_(torch.arange(21.0))
    found = with_new_heads(normed, ["cell"], None, seed=0)
    mean = found.network.get_buffer("layers.0.norm.running_mean").tolist()
    assert mean == [0, 1, 2, 3, 4, 0, 7, 8, 9, 10, 11, 0, 14, 15, 16, 17, 18, 0]


def test_a_head_that_other_layers_take_cannot_be_made_anew() -> None:
    anchor = ((9.0, 9.0),)
    head = Convolution(7, 1, batch_normalize=False, activation="linear")
    layers = (replace(head, stride=32), Yolo(anchor), Route((0,)), Convolution(4, 3), head, Yolo(anchor))
    taken = new_model(Architecture("any", layers, ("cat", "dog"), 64), seed=0)
    with pytest.raises(
        InputError, match=r"layers\.3\.convolution\.weight .*\[4, 7, 3, 3\], the network takes .*\[4, 9"
    ):
        with_new_heads(taken, CELLS, None, seed=0)
