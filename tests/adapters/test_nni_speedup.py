"""NNI's speedup on the shared detector: the real engine on small networks."""

import copy
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detpress.adapters.nni_speedup import speed_up
from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.channels import masks_of_filters, removable_filters, without_filters
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.design import architecture_names
from detpress.detector.kinds import AveragePool, Convolution, Dropout, ScaleChannels, Shortcut, Yolo
from detpress.detector.layer import Layer
from detpress.detector.model import Model, apply_masks, new_model
from detpress.detector.network import Network

LOG = logging.getLogger("tests.nni")
EXACT = 1e-5


def trained_like(name: str, width: float, classes: int = 3, image_size: int = 96) -> Model:
    """A network whose BatchNorms are like trained ones: the zeros and ones of a new network would hide errors."""
    return with_trained_norms(build_architecture(name, [f"class{i}" for i in range(classes)], image_size, width))


def with_trained_norms(architecture: Architecture) -> Model:
    model = new_model(architecture, seed=0)
    generator = torch.Generator().manual_seed(1)
    tensors = model.network.state_dict()
    for key, tensor in tensors.items():
        if key.endswith(("running_mean", "norm.bias")):
            tensor.normal_(generator=generator)
        elif key.endswith(("running_var", "norm.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
    model.network.load_state_dict(tensors)
    model.network.requires_grad_(False)  # as training and bundles hand it on
    return model


def masked(model: Model, kept: dict[int, Tensor]) -> tuple[Network, dict[str, Tensor]]:
    network = copy.deepcopy(model.network)
    masks = masks_of_filters(network, kept)
    apply_masks(network, masks)
    assert isinstance(network, Network)
    return network, masks


def random_filters(model: Model, share: float) -> dict[int, Tensor]:
    """Each group of coupled convolutions loses a random choice of its filters, about `share`, never all."""
    generator = torch.Generator().manual_seed(2)
    kept = {}
    for group in coupled_convolutions(model.architecture):
        if not set(group) & set(model.architecture.heads):
            filters = torch.rand(model.architecture.output_channels[group[0]], generator=generator) >= share
            filters[0] = True
            kept |= dict.fromkeys(group, filters)
    return kept


def largest_difference(one: Network, other: Network) -> float:
    image = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return max(float((a - b).abs().max()) for a, b in zip(one(image), other(image), strict=True))


@pytest.mark.parametrize("width", [0.07, 0.1, 0.125])  # filters and kept filters, odd and even
@pytest.mark.parametrize("name", architecture_names())
def test_the_smaller_network_gives_what_the_masked_one_gives(name: str, width: float) -> None:
    model = trained_like(name, width)
    network, masks = masked(model, random_filters(model, 0.45))
    before = copy.deepcopy(network.state_dict())
    smaller = speed_up(network, model.architecture, masks, LOG)
    assert smaller.architecture == without_filters(model.architecture, removable_filters(model.architecture, masks))
    assert largest_difference(network, smaller) < EXACT
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


HEAD = (Convolution(18, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10), (20, 20), (30, 30))))
PLAIN = {"batch_normalize": False}
BLOCKS: dict[str, tuple[Layer, ...]] = {
    "depthwise": (
        Convolution(8, 3, 2),
        Convolution(12, 1, activation="relu6"),
        Convolution(12, 3, activation="relu6", groups=12),
        Convolution(8, 1, activation="linear"),
        Shortcut(0),
    ),
    "squeeze and excitation": (
        Convolution(8, 1, activation="swish"),
        Convolution(8, 5, 2, activation="hard_swish", groups=8),
        AveragePool(),
        Convolution(4, 1, activation="relu", **PLAIN),
        Convolution(8, 1, activation="logistic", **PLAIN),
        ScaleChannels(1),
        Convolution(6, 1, activation="linear"),
    ),
    "lines": (Convolution(8, (3, 1), activation="mish"), Dropout(0.5), Convolution(6, (1, 5), activation="mish")),
    "grouped": (Convolution(8, 3), Convolution(8, 3, groups=2), Convolution(8, 1), Convolution(8, 3)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_other_detectors_are_exact_too(name: str) -> None:
    model = with_trained_norms(Architecture(name, (*BLOCKS[name], *HEAD), ("cell",), 96))
    network, masks = masked(model, random_filters(model, 0.5))
    smaller = speed_up(network, model.architecture, masks, LOG)
    assert smaller.architecture == without_filters(model.architecture, removable_filters(model.architecture, masks))
    assert sum(smaller.architecture.output_channels) < sum(model.architecture.output_channels) - 5
    assert largest_difference(network, smaller) < EXACT


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny"])
def test_layers_down_to_one_filter_stay_exact(name: str) -> None:
    model = trained_like(name, 0.1)
    kept = {i: torch.arange(len(filters)) == 0 for i, filters in random_filters(model, 0.5).items()}
    network, masks = masked(model, kept)
    smaller = speed_up(network, model.architecture, masks, LOG)
    assert all(smaller.architecture.output_channels[i] == 1 for i in kept)
    assert largest_difference(network, smaller) < EXACT


def test_masks_that_disagree_in_a_residual_stage_take_out_only_what_all_agree_on() -> None:
    model = trained_like("yolov3", 0.125)
    generator = torch.Generator().manual_seed(4)
    channels = model.architecture.output_channels
    kept = {i: torch.rand(channels[i], generator=generator) >= 0.5 for i in random_filters(model, 0.5)}
    for filters in kept.values():
        filters[0] = True
    del kept[1]  # the first stage: its other convolution's filters cannot go
    network, masks = masked(model, kept)
    smaller = speed_up(network, model.architecture, masks, LOG)
    removable = removable_filters(model.architecture, masks)
    assert 3 not in removable
    assert smaller.architecture == without_filters(model.architecture, removable)
    assert largest_difference(network, smaller) < EXACT


def test_a_head_is_never_narrowed_even_if_a_mask_says_so() -> None:
    model = trained_like("yolov3-tiny", 0.125)
    head = model.architecture.heads[0]
    network, masks = masked(model, {0: torch.tensor([True, False]), head: torch.arange(24) >= 4})
    smaller = speed_up(network, model.architecture, masks, LOG)
    assert smaller.architecture == without_filters(model.architecture, {0: 1})
    assert largest_difference(network, smaller) < EXACT


def test_nothing_of_nni_is_left_in_the_result() -> None:
    model = trained_like("yolov3", 0.07)
    network, masks = masked(model, random_filters(model, 0.5))
    smaller = speed_up(network, model.architecture, masks, LOG)
    for module in smaller.modules():
        assert type(module).__module__.split(".")[0] in ("torch", "detpress")
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module.training
    assert type(smaller) is Network
    assert not any(isinstance(module, torch.fx.GraphModule) for module in smaller.modules())


def test_the_same_input_gives_the_same_bits_and_the_global_generator_is_untouched() -> None:
    model = trained_like("yolov3-tiny", 0.125)
    network, masks = masked(model, random_filters(model, 0.5))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = speed_up(network, model.architecture, masks, LOG)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = speed_up(network, model.architecture, masks, LOG)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_nni_writes_no_file_and_nothing_to_the_terminal(tmp_path: Path) -> None:
    code = """
import logging, torch
from detpress.adapters.nni_speedup import speed_up
from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.channels import masks_of_filters
from detpress.detector.model import apply_masks
from detpress.detector.model import new_model

logging.getLogger("quiet").addHandler(logging.NullHandler())
model = new_model(build_architecture("yolov3-tiny", ["cell"], 64, 0.125), 0)
masks = masks_of_filters(model.network, {4: torch.arange(8) >= 3})
apply_masks(model.network, masks)
speed_up(model.network, model.architecture, masks, logging.getLogger("quiet"))
"""
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for folder in folders.values():
        folder.mkdir()
    (tmp_path / "cwd").mkdir()
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
