"""Searched backbones: the published one is among them, and a candidate in a supernet is the block of the layer list."""

import pytest
import torch

from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.backbone import Backbone, Block, BlockModule, supernet_parts, with_backbone
from detpress.detector.channels import stored_parameters
from detpress.detector.network import Network
from detpress.errors import InputError
from detpress.measure.size import macs

GIVEN = build_architecture("yolov3", ["cat", "dog"], 64, 0.125)


def backbone(block: Block, width: float = 0.125, blocks: int = 1) -> Backbone:
    return Backbone((width,) * 5, ((block,) * blocks,) * 5)


def test_darknet_53_is_one_of_the_backbones() -> None:
    blocks = tuple((Block("residual"),) * number for number in (1, 2, 8, 8, 4))
    assert with_backbone(Backbone((0.125,) * 5, blocks), GIVEN) == GIVEN


@pytest.mark.parametrize("kind", ["residual", "depthwise", "fire", "pep"])
@pytest.mark.parametrize("kernel", [3, 5])
def test_every_kind_of_block_gives_yolov3s_three_maps(kind: str, kernel: int) -> None:
    architecture = with_backbone(backbone(Block(kind, kernel, 0.25)), GIVEN)
    with torch.inference_mode():
        maps = Network(architecture).eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(each.shape) for each in maps] == [(1, 21, side, side) for side in (2, 4, 8)]


def test_parameters_and_macs_of_a_block_are_those_of_the_papers_arithmetic() -> None:
    """One block more in stage 3 (32 filters at width 0.125, 8 x 8 pixels), counted by hand; 2 more a BatchNorm."""
    without = with_backbone(Backbone((0.125,) * 5, ((),) * 5), GIVEN)
    expected = {
        "residual": (32 * 8 + 2 * 8) + (8 * 32 * 25 + 2 * 32),
        "depthwise": (32 * 8 + 2 * 8) + (8 * 25 + 2 * 8) + (8 * 32 + 2 * 32),
        "fire": (32 * 8 + 2 * 8) + (8 * 16 + 2 * 16) + (8 * 16 * 25 + 2 * 16),
        "pep": (32 * 8 + 2 * 8) + (8 * 8 + 2 * 8) + (8 * 25 + 2 * 8) + (8 * 32 + 2 * 32),
    }
    weights = {
        "residual": 32 * 8 + 8 * 32 * 25,
        "depthwise": 32 * 8 + 8 * 25 + 8 * 32,
        "fire": 32 * 8 + 8 * 16 * 26,
        "pep": 32 * 8 + 8 * 8 + 8 * 25 + 8 * 32,
    }
    for kind, parameters in expected.items():
        block = Block(kind, 5, 0.25)
        more = with_backbone(Backbone((0.125,) * 5, ((), (), (block,), (), ())), GIVEN)
        assert stored_parameters(more) - stored_parameters(without) == parameters
        assert macs(more) - macs(without) == 64 * weights[kind]


BLOCKS = [Block("residual", 5, 0.25), Block("depthwise"), Block("fire", 3, 0.25), Block("pep")]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_candidate_computes_what_the_layer_list_computes(block: Block) -> None:
    """The candidate's tensors put into the network: layer i of the candidate is layer i + offset of the network."""
    network = Network(with_backbone(Backbone((0.125,) * 5, ((block,), (), (), (), ())), GIVEN)).eval()
    candidate = BlockModule(block, 8).eval()
    first = 1  # the stage's convolution, which stands at 0 in the candidate
    outputs: dict[str, torch.Tensor] = {}
    network.layers[first].register_forward_hook(lambda m, i, out: outputs.update(before=out))
    following = next(
        i for i, layer in enumerate(network.architecture.layers) if isinstance(layer, Convolution) and i > first + 1
        and layer.stride == 2
    )  # fmt: skip
    network.layers[following].register_forward_pre_hook(lambda m, inputs: outputs.update(after=inputs[0]))
    for i in range(1, len(candidate.list)):
        candidate.layers[i].load_state_dict(network.layers[first + i].state_dict())
    with torch.inference_mode():
        network(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(candidate(outputs["before"]), outputs["after"])


def test_a_supernet_has_a_choice_for_every_block_and_nothing_where_blocks_may_be_fewer() -> None:
    blocks = {"residual 3 0.5": Block("residual"), "fire 3 0.5": Block("fire")}
    architecture, candidates = supernet_parts(0.125, [1, 2], blocks, GIVEN)
    assert [label for label, _ in candidates.values()] == [f"stage{s}_block{b}" for s in range(1, 6) for b in range(2)]
    for label, modules in candidates.values():
        assert list(modules) == [*blocks, *(["none"] if label.endswith("block1") else [])]
    assert all(isinstance(architecture.layers[i], Convolution) for i in candidates)


def test_a_backbone_needs_three_scales() -> None:
    with pytest.raises(InputError, match="yolov3-tiny has 2 scales"):
        with_backbone(backbone(Block("residual")), build_architecture("yolov3-tiny", ["cat"], 64, 0.125))
