"""Networks inside of a network: what is counted, what is inherited, and what learns of it."""

import random

import pytest
import torch

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.model import new_model
from detpress.detector.network import Network
from detpress.pruning.budgets import size_of
from detpress.pruning.coupled_tensors import coupled_tensors, importance
from detpress.pruning.cutting import carry_out
from detpress.pruning.filter_groups import prunable_groups
from detpress.pruning.members import Members
from detpress.pruning.sandwich import Inherited

ARCHITECTURE = build_architecture("yolov3", ["cat", "dog"], 64, 0.0625)
MEMBERS = Members(ARCHITECTURE, [1.0, 0.5], [0.25, 1.0])
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> Network:
    found = new_model(ARCHITECTURE, seed=0).network
    assert isinstance(found, Network)
    return found


def importance_of(network: Network) -> dict[tuple[int, ...], torch.Tensor]:
    return importance(network, coupled_tensors(network.architecture, prunable_groups(network.architecture)))


def largest() -> dict[str, object]:
    return {label: values[-1] for label, values in MEMBERS.choices.items()}


def test_a_section_is_a_run_of_layers_of_one_scale() -> None:
    found = {section.name: len(section.blocks) for section in MEMBERS.sections}
    assert found == {
        "layers.0": 0, "layers.1": 1, "layers.5": 2, "layers.12": 8, "layers.37": 8, "layers.62": 4,
        "layers.75": 0, "layers.85": 0, "layers.97": 0,
    }  # fmt: skip
    assert MEMBERS.choices["layers.12.blocks"] == [2, 8]
    assert MEMBERS.choices["layers.1.blocks"] == [1]
    assert MEMBERS.choices["layers.97.width"] == [0.5, 1.0]


def test_a_width_is_a_share_of_the_filters_of_its_section_alone() -> None:
    one = MEMBERS.architecture_of(largest() | {"layers.37.width": 0.5})
    for i, (was, now) in enumerate(zip(ARCHITECTURE.output_channels, one.output_channels, strict=True)):
        if 37 <= i < 62:
            assert now == was // 2
    assert one.output_channels[12] == ARCHITECTURE.output_channels[12]
    assert MEMBERS.architecture_of({label: value if "blocks" in label else 0.5 for label, value in largest().items()})


def test_who_keeps_everything_gives_the_same_maps_bit_for_bit(network: Network) -> None:
    same = carry_out(network, MEMBERS.cut(largest(), importance_of(network)))
    assert same.architecture == network.architecture
    with torch.inference_mode():
        assert all(torch.equal(mine, its) for mine, its in zip(same(IMAGES), network(IMAGES), strict=True))


def test_the_uniform_member_is_the_narrower_architecture() -> None:
    """Half of width 0.125 is width 0.0625: the same layers, and so the same counts."""
    members = Members(build_architecture("yolov3", ["cat", "dog"], 64, 0.125), [0.5], [1.0])
    assert members.architecture_of(members.smallest) == ARCHITECTURE


def test_a_member_is_the_network_that_its_layer_list_makes(network: Network) -> None:
    generator = random.Random(0)
    for _ in range(2):
        choices = MEMBERS.drawn(lambda _: True, generator)
        member = carry_out(network, MEMBERS.cut(choices, importance_of(network)))
        assert member.architecture == MEMBERS.architecture_of(choices)
        assert size_of(member.architecture).parameters == sum(p.numel() for p in member.parameters())


def test_a_narrow_member_has_the_most_important_filters_and_the_first_blocks(network: Network) -> None:
    order = importance_of(network)
    cut = MEMBERS.cut(largest() | {"layers.62.width": 0.5, "layers.62.blocks": 1}, order)
    for group, kept in cut.kept.items():
        assert float(order[group][kept].min()) >= float(order[group][~kept].max())
    assert [block.shortcut for block in cut.blocks] == [68, 71, 74]


def test_what_is_drawn_is_within_the_budget() -> None:
    whole = size_of(ARCHITECTURE)

    def within(architecture: Architecture) -> bool:
        return size_of(architecture).macs <= whole.macs // 2

    generator = random.Random(0)
    drawn = [MEMBERS.drawn(within, generator) for _ in range(5)]
    assert all(within(MEMBERS.architecture_of(choices)) for choices in drawn)
    assert len({str(choices) for choices in drawn}) > 1
    assert MEMBERS.drawn(lambda _: False, generator) == MEMBERS.smallest


def test_any_layer_list_has_members() -> None:
    """YOLO Nano's projections and depthwise convolutions go together, SqueezeNet's fires are concatenated."""
    for name in ("yolo-nano", "squeezenet-yolov3", "mobile-yolov3"):
        architecture = build_architecture(name, ["cat"], 64, 0.25)
        members = Members(architecture, [0.5, 1.0], [0.5, 1.0])
        network = new_model(architecture, seed=0).network
        assert isinstance(network, Network)
        member = carry_out(network, members.cut(members.smallest, importance_of(network)))
        assert size_of(member.architecture).macs < size_of(architecture).macs
        with torch.inference_mode():
            assert len(member(IMAGES)) == 3


def test_a_member_computes_with_the_whole_networks_tensors_which_learn_by_it(network: Network) -> None:
    """The same maps as the member cut out, and gradients for what it has of the network, none for the rest."""
    cut = MEMBERS.cut(MEMBERS.smallest, importance_of(network))
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    maps = Inherited(network, cut).maps(network, IMAGES)
    with torch.no_grad():
        alone = carry_out(network, cut).train()(IMAGES)
    assert all(torch.equal(mine, its) for mine, its in zip(maps, alone, strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
    torch.stack([raw.square().mean() for raw in maps]).sum().backward()
    learnt = network.get_parameter("layers.13.convolution.weight").grad
    assert learnt is not None
    assert torch.equal(learnt.flatten(1).abs().sum(1) > 0, cut.kept[(13,)])
    gone = network.get_parameter("layers.34.convolution.weight").grad
    assert gone is None or not gone.any()
    network.zero_grad()
