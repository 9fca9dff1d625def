"""NNI's MobileNetV3Space as a backbone: the layer list computes what NNI's own frozen module computes."""

import random

import pytest
import torch
from torch import Tensor

from detpress.adapters.nni_hub import MobileNetV3
from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.network import Network
from detpress.errors import InputError

GIVEN = build_architecture("yolov3", ["cat", "dog"], 64, 0.125)


@pytest.mark.parametrize("seed", range(4))
def test_the_backbone_gives_what_nnis_network_gives(seed: int) -> None:
    """Tensors are handed over in order; what is computed from the maps of stages 2, 4 and 5 gets the same."""
    space = MobileNetV3([0.25, 0.5, 1.0], (1, 3), [1.0, 2.0, 3.0])
    draw = random.Random(seed)
    choices = {label: draw.choice(values) for label, values in space.choices.items()}
    theirs = space.space.freeze({**choices, **space.classifier}).eval()
    network = Network(space.architecture_of(choices, GIVEN)).eval()
    parts = [theirs.stem, *theirs.blocks[:6]]
    convolutions = [m for part in parts for m in part.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for part in parts for m in part.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(seed)
    ours = [block for block in network.layers if hasattr(block, "convolution")]
    for block, convolution, norm in zip(ours, convolutions, norms, strict=False):
        norm.running_mean.uniform_(-0.1, 0.1, generator=generator)
        block.convolution.load_state_dict(convolution.state_dict())
        block.norm.load_state_dict(norm.state_dict())

    images = torch.rand(2, 3, 64, 64, generator=generator)
    expected: list[Tensor] = []
    with torch.inference_mode():
        x = theirs.stem(images)
        for stage, block in enumerate(theirs.blocks[:6]):
            x = block(x)
            if stage in (2, 4, 5):
                expected.append(x)
        given: list[Tensor] = []
        for layer in network.layers:
            layer.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
        network(images)
    for map_ in expected:
        assert any(other.shape == map_.shape and torch.allclose(other, map_, atol=1e-5) for other in given)
    assert [map_.shape[-1] for map_ in expected] == [8, 4, 2]


def test_widths_are_nnis_base_widths_and_the_heads_are_as_wide_as_what_they_stand_on() -> None:
    space = MobileNetV3([1.0], (1, 1), [1.0])
    architecture = space.architecture_of({label: values[0] for label, values in space.choices.items()}, GIVEN)
    convolutions = [layer for layer in architecture.layers if isinstance(layer, Convolution)]
    linear = [layer.filters for layer in convolutions if layer.activation == "linear" and layer.batch_normalize]
    assert linear == [16, 16, 32, 64, 128, 256]
    assert convolutions[len(convolutions) - 23].filters == 512 * 256 // 1024  # the first of the heads' 23
    assert {layer.activation for layer in convolutions} == {"relu", "linear", "leaky"}


def test_a_given_network_needs_three_scales() -> None:
    space = MobileNetV3([1.0], (1, 1), [1.0])
    tiny = build_architecture("yolov3-tiny", ["cat"], 64, 0.125)
    with pytest.raises(InputError, match="yolov3-tiny has 2 scales"):
        space.architecture_of({label: values[0] for label, values in space.choices.items()}, tiny)
