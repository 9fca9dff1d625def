"""The bridge to NNI 3.0's hub of finished spaces: a network of its MobileNetV3Space as a backbone of the layer list.

What stands in NNI's space as it is:    what the layer list has no words for, and is switched off by the space's own
                                        arguments:
    stem        k x k of stride 2
    stage 0     depthwise k x k, 1x1        squeeze-and-excitation
    stages 1-5  inverted residual blocks    hard swish: every activation is ReLU

Its classification head is left out. YOLOv3's heads stand where strides 8, 16 and 32 end, behind stages 2, 4 and 5.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.backbone import STAGE_FILTERS, under_heads
from detpress.detector.kinds import Activation, Convolution, Shortcut
from detpress.detector.layer_list import LayerList

# Tianshou, of the extra `rl`, imports gym, which advertises its successor on stderr.
with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
    warnings.simplefilter("ignore")
    from nni.nas.hub.pytorch import MobileNetV3Space
    from nni.nas.hub.pytorch.proxylessnas import ConvBNReLU, DepthwiseSeparableConv, InvertedResidual

ENDS = (2, 4, 5)  # the stages that give strides 8, 16 and 32
CLASSIFIER = ("s6_width_mult", "s7_width_mult")  # of the head that is left out


class MobileNetV3:
    """The space, with NNI's labels, base widths and kernels of 3, 5 and 7 pixels.

    widths: factors on NNI's base widths, one a stage, rounded to multiples of 8. depths: fewest and most blocks of the
    stages 1 to 5, at least one. expansions: a block's inner channels as multiples of its input's.
    """

    def __init__(self, widths: Sequence[float], depths: tuple[int, int], expansions: Sequence[float]) -> None:
        self.space = MobileNetV3Space(
            num_labels=1,
            width_multipliers=tuple(widths),
            expand_ratios=tuple(expansions),
            depth_range=depths,
            squeeze_excite=("none",) * 6,
            activation=("relu",) * 9,
            bn_eps=1e-5,  # PyTorch's default, which the layer list's BatchNorm has
        )
        mutables = self.space.simplify()
        self.classifier = {label: mutables.pop(label).values[0] for label in CLASSIFIER}
        self.choices: dict[str, list[Any]] = {label: list(mutable.values) for label, mutable in mutables.items()}

    def architecture_of(self, choices: Mapping[str, Any], given: Architecture) -> Architecture:
        """The detector that a choice for every label makes. Raises InputError as `under_heads` does."""
        frozen = self.space.freeze({**choices, **self.classifier})
        net = LayerList(1.0)
        _add_convolutions(net, frozen.stem)
        ends: list[int] = []
        filters: list[int] = []
        for stage in frozen.blocks[:6]:
            for block in [stage] if isinstance(stage, DepthwiseSeparableConv) else stage:
                _add_block(net, block)
                last = block[-2]  # before its BatchNorm
            ends.append(len(net.layers) - 1)
            filters.append(last.out_channels)
        widths = [filters[stage] / of for stage, of in zip(ENDS, STAGE_FILTERS[2:], strict=True)]
        return under_heads(net, [ends[stage] for stage in ENDS], widths, given)


def _add_block(net: LayerList, block: DepthwiseSeparableConv | InvertedResidual) -> None:
    before = len(net.layers) - 1
    _add_convolutions(net, block)
    if block.has_skip:
        net.add(Shortcut(before))


def _add_convolutions(net: LayerList, parts: ConvBNReLU | DepthwiseSeparableConv | InvertedResidual) -> None:
    """The block's convolutions, each followed by BatchNorm and perhaps ReLU: NNI keeps all in one flat sequence."""
    modules = [*parts, None, None]
    for i, module in enumerate(modules):
        if isinstance(module, nn.Conv2d):
            activation: Activation = "relu" if isinstance(modules[i + 2], nn.ReLU) else "linear"
            size, stride = module.kernel_size[0], module.stride[0]
            net.add(Convolution(module.out_channels, size, stride, activation=activation, groups=module.groups))
