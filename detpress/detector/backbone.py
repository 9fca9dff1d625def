"""Backbones that can be searched for, as layer lists under YOLOv3's heads.

    stem      3x3, 32 filters
    stage k   3x3 of stride 2 to 64, 128, 256, 512 or 1024 filters, then blocks that keep size and filters
    heads     YOLOv3's, on the ends of the last three stages

All filters of a stage, and of the heads on it, are multiplied by its width. A block adds to its input what its kind
computes of it (c filters, bottleneck b = ratio * c, kernel k):

    residual   1x1 to b, k x k to c                                Redmon and Farhadi, YOLOv3, 2018: b = c / 2, k = 3
    depthwise  1x1 to b, k x k of each channel alone, 1x1 to c     Sandler et al., MobileNetV2, arXiv:1801.04381, 2018
    fire       1x1 to b; of it 1x1 to c / 2 beside k x k to c / 2  Iandola et al., SqueezeNet, arXiv:1602.07360, 2016
    pep        1x1 to b, 1x1 to b, k x k depthwise, 1x1 to c       Wong et al., YOLO Nano, arXiv:1910.01271, 2019

Changed against the papers: every convolution is followed by BatchNorm and LeakyReLU, as in YOLOv3; MobileNetV2's
ratios are above 1 and its last 1x1 is linear; SqueezeNet has no BatchNorm, and adds the input to some blocks only;
YOLO Nano's last 1x1 is linear, and its ratios were found by a search (how much the second 1x1 expands it leaves open;
not at all here, as in `detpress.detector.designs.yolo_nano`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Route, Shortcut, Yolo
from detpress.detector.layer_list import LayerList
from detpress.detector.network import Network
from detpress.errors import InputError

BlockKind = Literal["residual", "depthwise", "fire", "pep"]
STAGE_FILTERS = (64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Block:
    """One block. kernel: pixels, odd. ratio: bottleneck's share of the block's filters."""

    kind: BlockKind
    kernel: int = 3
    ratio: float = 0.5


@dataclass(frozen=True)
class Backbone:
    """widths: a factor for each of the five stages; blocks: those of each stage, one after the other."""

    widths: tuple[float, ...]
    blocks: tuple[tuple[Block, ...], ...]


def with_backbone(backbone: Backbone, given: Architecture) -> Architecture:
    """The detector of this backbone with the classes, the input size and the anchors of `given`.

    Raises InputError as `under_heads` does.
    """

    def add_stage(net: LayerList, stage: int) -> None:
        for block in backbone.blocks[stage]:
            add_block(net, block)

    return _detector(backbone.widths, add_stage, given)


def supernet_parts(
    width: float, numbers: Sequence[int], blocks: Mapping[str, Block], given: Architecture
) -> tuple[Architecture, dict[int, tuple[str, dict[str, nn.Module]]]]:
    """A detector whose blocks are still to be chosen: its layers, and layer number -> label and candidates.

    numbers: of blocks that a stage may have; beyond the smallest, a block may also be `none`. blocks: the candidates
    by name. A layer that is chosen stands in the layer list as a convolution, whose module the candidates replace.
    """
    candidates: dict[int, tuple[str, dict[str, nn.Module]]] = {}

    def add_stage(net: LayerList, stage: int) -> None:
        for place in range(max(numbers)):
            filters = _filters_behind(net)
            modules: dict[str, nn.Module] = {name: BlockModule(block, filters) for name, block in blocks.items()}
            if place >= min(numbers):
                modules["none"] = nn.Identity()
            candidates[net.add(Convolution(filters, 1))] = (f"stage{stage + 1}_block{place}", modules)

    return _detector((width,) * len(STAGE_FILTERS), add_stage, given), candidates


def _detector(
    widths: Sequence[float], add_stage: Callable[[LayerList, int], None], given: Architecture
) -> Architecture:
    net = LayerList(widths[0])
    net.convolution(32, 3)
    ends = []
    for stage, filters in enumerate(STAGE_FILTERS):
        net.width = widths[stage]
        net.convolution(filters, 3, stride=2)
        add_stage(net, stage)
        ends.append(len(net.layers) - 1)
    return under_heads(net, ends[2:], widths[2:], given)


def under_heads(net: LayerList, ends: Sequence[int], widths: Sequence[float], given: Architecture) -> Architecture:
    """The backbone `net` under YOLOv3's heads, with the classes, the input size and the anchors of `given`.

    ends: layers that give maps of strides 8, 16 and 32, the last of which is the backbone's last. widths: factors on
    the filters of the head that stands on each.
    Raises InputError where `given` has not YOLOv3's three scales.
    """
    anchors = [layer.anchors for layer in given.layers if isinstance(layer, Yolo)]
    if len(anchors) != 3:
        raise InputError(f"{given.name} has {len(anchors)} scales; a backbone is searched for three, as yolov3 has")
    net.yolov3_heads(ends[0], ends[1], anchors, len(given.classes), widths[::-1])
    return Architecture("yolov3", tuple(net.layers), given.classes, given.image_size, given.resize)


def add_block(net: LayerList, block: Block) -> None:
    """Adds the block's layers behind what is there."""
    before = len(net.layers) - 1
    filters = _filters_behind(net)
    bottleneck = max(1, round(block.ratio * filters))
    squeezed = net.add(Convolution(bottleneck, 1))
    match block.kind:
        case "residual":
            net.add(Convolution(filters, block.kernel))
        case "depthwise":
            net.depthwise(block.kernel)
            net.add(Convolution(filters, 1))
        case "pep":
            net.add(Convolution(bottleneck, 1))
            net.depthwise(block.kernel)
            net.add(Convolution(filters, 1))
        case "fire":
            half = max(1, filters // 2)
            narrow = net.add(Convolution(half, 1))
            net.add(Route((squeezed,)))
            wide = net.add(Convolution(max(1, filters - half), block.kernel))
            net.add(Route((narrow, wide)))
    net.add(Shortcut(before))


def _filters_behind(net: LayerList) -> int:
    """Of the stage's first convolution, which every block keeps."""
    for layer in reversed(net.layers):
        if isinstance(layer, Convolution) and layer.stride == 2:
            return layer.filters
    raise AssertionError("a block follows a convolution of stride 2")


class BlockModule(nn.Module):
    """A block by itself, as a candidate in a supernet: float32 (N, filters, H, W) -> the same shape."""

    def __init__(self, block: Block, filters: int) -> None:
        super().__init__()
        net = LayerList(1.0)
        net.add(Convolution(filters, 1, stride=2))  # stands for what gives the block's input
        add_block(net, block)
        self.list = tuple(net.layers)
        net.head([(1.0, 1.0)], classes=1)  # a network must have one
        layers = Network(Architecture("block", tuple(net.layers), ("any",), 32)).layers
        self.layers = nn.ModuleList([nn.Identity(), *layers[1 : len(self.list)]])

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for i, layer in enumerate(self.list[1:], start=1):
            taken = [outputs[k] for k in layer.inputs(i)]
            outputs.append(taken[0] if layer.passes_on else self.layers[i](*taken))
        return outputs[-1]
