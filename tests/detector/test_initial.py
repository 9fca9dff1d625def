"""Initial weights of a training from nothing: residual blocks that pass on, boxes that are sure of nothing."""

import pytest
import torch

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.initial import ending_blocks, heads_have_biases, set_objectness_prior, zero_residual_scales
from detpress.detector.kinds import Convolution, Shortcut, Yolo
from detpress.detector.model import new_model
from detpress.errors import InputError
from detpress.plugins.train import Scratch, ScratchOptions
from detpress.training.image_counts import ImageCounts


def of_blocks(*block: Convolution) -> Architecture:
    """A network of one residual block, and a head of a convolution that has no bias."""
    head = Convolution(7, 1, batch_normalize=False, activation="linear", bias=False)
    layers = (Convolution(8, 3, stride=2), *block, Shortcut(0), head, Yolo(((10.0, 10.0),)))
    return Architecture("blocks", layers, ("cat", "dog"), 32)


def test_every_block_gives_what_it_takes() -> None:
    architecture = build_architecture("yolov3", ["cat", "dog"], 64, width=0.05)
    network = new_model(architecture, seed=0).network
    zero_residual_scales(network, architecture)
    outputs: dict[int, torch.Tensor] = {}
    for i, layer in enumerate(network.get_submodule("layers").children()):
        layer.register_forward_hook(lambda module, taken, given, i=i: outputs.update({i: given}))
    network.train()(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    shortcuts = {i: layer.source for i, layer in enumerate(architecture.layers) if isinstance(layer, Shortcut)}
    assert len(shortcuts) == 23
    for i, source in shortcuts.items():
        assert torch.equal(outputs[i], outputs[source])
    changed = {
        name for name, tensor in network.state_dict().items() if name.endswith("norm.weight") and not tensor.any()
    }
    assert changed == {f"layers.{i - 1}.norm.weight" for i in shortcuts}


def test_a_block_that_passes_on_learns() -> None:
    """The scale has a gradient, so that after one step the weights behind it have one, too."""
    architecture = build_architecture("yolov3", ["cat", "dog"], 64, width=0.05)
    network = new_model(architecture, seed=0).network.train()
    zero_residual_scales(network, architecture)
    sum(raw.square().sum() for raw in network(torch.rand(2, 3, 64, 64))).backward()
    for layer in ending_blocks(architecture):
        gradient = network.get_parameter(f"layers.{layer}.norm.weight").grad
        assert gradient is not None
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("activation", "ends"), [("leaky", [2]), ("linear", [2]), ("swish", [2]), ("relu", []), ("relu6", [])]
)
def test_a_scale_stays_where_zero_would_never_change(activation: str, ends: list[int]) -> None:
    assert ending_blocks(of_blocks(Convolution(4, 1), Convolution(8, 3, activation=activation))) == ends


def test_all_boxes_start_with_the_objectness_asked_for() -> None:
    architecture = build_architecture("yolov3", ["cat", "dog"], 64, width=0.05)
    network = new_model(architecture, seed=0).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    set_objectness_prior(network, architecture, 0.01)
    for head in architecture.heads:
        name = f"layers.{head}.convolution.bias"
        bias = network.get_parameter(name).detach().view(3, 7)
        torch.testing.assert_close(bias[:, 4], torch.full((3,), -4.59512), atol=1e-5, rtol=0)
        others = [0, 1, 2, 3, 5, 6]
        assert torch.equal(bias[:, others], before.pop(name).view(3, 7)[:, others])
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_what_a_network_cannot_start_with_is_refused() -> None:
    model = new_model(of_blocks(Convolution(4, 1), Convolution(8, 3, activation="relu")), seed=0)
    assert not heads_have_biases(model.architecture)
    with pytest.raises(InputError, match="zero_gamma: the network has no residual block"):
        Scratch().check(model, ScratchOptions(epochs=1, zero_gamma=True), ImageCounts())
    with pytest.raises(InputError, match="objectness_prior: the network has a head whose convolution has no bias"):
        Scratch().check(model, ScratchOptions(epochs=1, objectness_prior=0.01), ImageCounts())
