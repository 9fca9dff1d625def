"""rewrite: other activations, other pixels, another network, packed weights in float; what stays of the one given."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from detpress.detector.architecture import build_architecture
from detpress.detector.boxes import all_boxes
from detpress.detector.float32 import FoldedFloat32
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.detector.rewriting import at_side, other_activations, same_task, with_activations
from detpress.errors import InputError
from detpress.measure.size import macs
from detpress.plugins.rewrite import (
    ActivationOptions,
    ArchitectureOptions,
    ImageSizeOptions,
    RewriteActivation,
    RewriteArchitecture,
    RewriteImageSize,
)


@pytest.fixture(scope="module")
def model() -> Model:
    return new_model(build_architecture("yolov3-tiny", ["dog"], 64, 0.0625), seed=1)


def test_the_maps_are_those_of_the_network_with_its_modules_exchanged(model: Model) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = with_activations(model.network, "relu")
    exchanged = new_model(model.architecture, seed=1).network
    leaky = [name for name, module in exchanged.named_modules() if isinstance(module, nn.LeakyReLU)]
    for name in leaky:
        exchanged.set_submodule(name, nn.ReLU())
    assert len(leaky) == len(other_activations(model.architecture, "relu")) == 11
    with torch.inference_mode():
        for one, other in zip(found(images), exchanged(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_the_given_network_stays_and_shares_no_tensor(model: Model) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    found = with_activations(model.network, "relu6")
    for tensor in found.state_dict().values():
        tensor.zero_()
    assert model.architecture.layers[0].activation == "leaky"
    assert all((tensor == before[name]).all() for name, tensor in model.network.state_dict().items())


def test_linear_layers_and_gates_stay(model: Model) -> None:
    layers = list(model.architecture.layers)
    assert isinstance(layers[2], Convolution)
    layers[2] = replace(layers[2], activation="logistic")
    network = new_model(replace(model.architecture, layers=tuple(layers)), seed=0).network
    found = with_activations(network, "relu").architecture.layers
    changed = [i for i, (one, other) in enumerate(zip(layers, found, strict=True)) if one != other]
    assert changed == [
        i for i, layer in enumerate(layers) if isinstance(layer, Convolution) and layer.activation == "leaky"
    ]
    assert 2 not in changed


def test_a_network_that_has_no_other_activation_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="to: leaky: the network has no other activation that could be replaced"):
        RewriteActivation().plan(model, ActivationOptions(to="leaky"))


def test_masks_stay(model: Model) -> None:
    mask = torch.ones_like(model.network.state_dict()["layers.0.convolution.weight"], dtype=torch.bool)
    mask[0] = False
    masked = replace(model, masks={"layers.0.convolution.weight": mask})
    assert RewriteActivation().plan(masked, ActivationOptions()).model.masks == masked.masks


def test_encodings_of_layers_stay(model: Model) -> None:
    network = Network(model.architecture, {0: FoldedFloat32()}).eval()
    found = with_activations(network, "relu")
    assert found.encodings == network.encodings
    assert found.state_dict().keys() == network.state_dict().keys()


def test_half_the_side_has_the_weights_a_quarter_of_the_macs_and_boxes_of_the_same_share_of_the_image(
    model: Model,
) -> None:
    smaller = at_side(model.network, 32)
    assert all((smaller.state_dict()[name] == tensor).all() for name, tensor in model.network.state_dict().items())
    assert 4 * macs(smaller.architecture) == macs(model.architecture)
    one_place = [torch.zeros(1, 18, 1, 1) for _ in smaller.architecture.heads]  # boxes as large as their anchors
    here, there = (all_boxes(one_place, network.architecture) for network in (model.network, smaller))
    torch.testing.assert_close(here / 64, there / 32)


def test_height_and_width_stay_in_proportion(model: Model) -> None:
    wide = model.with_network(Network(replace(model.architecture, image_size=(64, 128))))
    (w, h), *_ = wide.architecture.yolo_layers[0].anchors
    found = RewriteImageSize().plan(wide, ImageSizeOptions(to=256)).model.architecture
    assert found.input_size == (128, 256)
    assert found.yolo_layers[0].anchors[0] == (2 * w, 2 * h)


@pytest.mark.parametrize(
    ("side", "said"),
    [(48, "to: image size 48: expected a positive multiple of 32"), (64, "to: the network takes images of this size")],
)
def test_a_size_that_the_network_cannot_take_or_has_is_refused(model: Model, side: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        RewriteImageSize().plan(model, ImageSizeOptions(to=side))


def test_a_network_for_the_same_task_has_its_classes_image_size_and_as_many_anchors() -> None:
    anchors = [(float(side), float(side + 1)) for side in range(5, 50, 5)]
    given = build_architecture("yolov3", ["dog", "cat"], 64, 0.0625, anchors, "stretch")
    assert same_task(given, "yolo-nano", 0.25) == build_architecture(
        "yolo-nano", ["dog", "cat"], 64, 0.25, anchors, "stretch"
    )
    six_anchors = same_task(given, "yolov3-tiny", 0.25)
    assert six_anchors == build_architecture("yolov3-tiny", ["dog", "cat"], 64, 0.25, None, "stretch")


def test_an_architecture_that_is_not_known_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="arch: unknown architecture 'yolo-nono'; did you mean 'yolo-nano'"):
        RewriteArchitecture().plan(model, ArchitectureOptions(arch="yolo-nono"))
