"""FitNets: stage 1 trains what is guided and nothing else; in stage 2 the teacher's weight falls."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import few_digits
from torch import nn

from detpress.detector.architecture import build_architecture
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model, new_model
from detpress.distillation.fitnets import FadingTargets, Hint, hint_loss
from detpress.distillation.links import middle_links
from detpress.distillation.options import FitnetsOptions
from detpress.encodings.bundle import save_bundle
from detpress.errors import InputError
from detpress.training.config import TrainingConfig
from detpress.training.trainer import TrainingContext, fit
from detpress.voc.devkit import Devkit

GUIDED = 8  # of the tiny network


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 8)


@pytest.fixture(scope="module")
def options(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> FitnetsOptions:
    folder = tmp_path_factory.mktemp("teacher") / "bundle"
    save_bundle(new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.125), seed=1), folder)
    return FitnetsOptions.model_validate({"teacher": str(folder), "hint_epochs": 1})


def student(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.0625), seed=0)


def test_by_default_the_ends_of_stride_16_are_linked() -> None:
    whole, tiny = (build_architecture(name, ["cat"], 96, width=0.125) for name in ("yolov3", "yolov3-tiny"))
    [link] = middle_links(tiny, whole)
    assert (link.student, link.teacher, link.channels, link.teacher_channels) == (8, 61, 32, 64)
    shallow = build_architecture("yolov3-tiny", ["cat"], 96, width=0.125)
    object.__setattr__(shallow, "layers", (Convolution(18, 1, stride=8), *shallow.layers[16:17]))
    with pytest.raises(InputError, match=r"^links: expected, as yolov3-tiny has no map of stride 16$"):
        middle_links(shallow, whole)


def test_the_loss_is_half_the_squared_difference_summed_over_channels() -> None:
    assert float(hint_loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0))) == 3 * 4 / 2


def test_stage_1_trains_the_layers_up_to_the_guided_one(
    devkit: Devkit, options: FitnetsOptions, tmp_path: Path
) -> None:
    hint: Any = Hint(options)
    model = student(devkit)
    context = TrainingContext(devkit, "train", 0, tmp_path, logging.getLogger("tests.fitnets"), lambda *_: None)
    hinted = fit(model, TrainingConfig(epochs=2, batch_size=4), context, (hint,))
    assert (tmp_path / "training.csv").read_text().startswith("epoch,hint\n")
    assert isinstance(hint.adapters[0][1], nn.LeakyReLU)
    found = hint.only_guided(hinted.network, model.network).state_dict()
    for name, before in model.network.state_dict().items():
        layer = int(name.split(".")[1])
        if layer > GUIDED:
            assert torch.equal(found[name], before), name
        elif name.endswith("convolution.weight"):
            assert not torch.equal(found[name], before), name


def test_in_stage_2_lambda_falls_linearly_from_4_to_1(options: FitnetsOptions) -> None:
    fading = FadingTargets(options)
    assert [fading.weight(number, 7) for number in range(7)] == [4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0]
    assert fading.weight(0, 1) == 4.0
