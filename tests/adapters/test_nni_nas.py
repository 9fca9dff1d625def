"""What a sample of a space costs: NNI's own profilers count what the layer list counts."""

import random
from typing import Any

import torch
from nni.nas.profiler.pytorch.flops import FlopsProfiler, FlopsResult, NumParamsProfiler, register_flops_formula
from nni.nas.profiler.pytorch.utils import MutableShape, register_shape_inference_formula
from torch import nn

from detpress.adapters.nni_nas import Supernet
from detpress.detector.architecture import build_architecture
from detpress.detector.backbone import Backbone, Block, supernet_parts, with_backbone
from detpress.detector.channels import stored_parameters
from detpress.measure.size import macs


def double_shape(module: nn.Upsample, x: Any) -> MutableShape:
    return MutableShape(*x.real_shape[:2], *(2 * side for side in x.real_shape[2:]))


def test_nnis_profilers_agree_with_the_layer_list() -> None:
    """Exactly, with NNI's counting of biases, activations and BatchNorm as operations switched off."""
    register_shape_inference_formula(nn.LeakyReLU, lambda module, x: x.real_shape)  # NNI knows these two not
    register_shape_inference_formula(nn.Upsample, double_shape)
    register_flops_formula(nn.Upsample, lambda *arguments, **options: FlopsResult(0, 0))
    given = build_architecture("yolov3", ["cat"], 64, 0.125)
    blocks = {f"{kind} {size}": Block(kind, size) for kind in ("residual", "depthwise", "fire") for size in (3, 5)}
    architecture, candidates = supernet_parts(0.125, [1, 2], blocks, given)
    supernet = Supernet(architecture, candidates)
    images = torch.rand(1, 3, 64, 64)
    operations = FlopsProfiler(supernet, images, count_bias=False, count_normalization=False, count_activation=False)
    parameters = NumParamsProfiler(supernet, images)
    draw = random.Random(0)
    for _ in range(5):
        sample = {label: draw.choice(list(modules)) for label, modules in candidates.values()}
        chosen = [
            tuple(blocks[name] for place in range(2) if (name := sample[f"stage{stage}_block{place}"]) != "none")
            for stage in range(1, 6)
        ]
        detector = with_backbone(Backbone((0.125,) * 5, tuple(chosen)), given)
        assert operations.profile(sample) == macs(detector)
        assert parameters.profile(sample) == stored_parameters(detector)
