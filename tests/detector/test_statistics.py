"""Statistics of BatchNorm taken from images, without a training."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detpress.detector.architecture import build_architecture
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.measure.section import Measure
from detpress.plugins.train import BatchNorm, StatisticsOptions
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training.image_counts import ImageCounts
from detpress.training.moving_average import STATISTICS
from detpress.training.statistics import with_statistics_of
from detpress.voc.devkit import open_devkit
from detpress.voc.digits import write_digits


@pytest.fixture
def model(images: Tensor) -> Model:
    return new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)


def spoilt(model: Model) -> Model:
    """With means and variances that no image gave."""
    network = copy.deepcopy(model.network)
    for name, tensor in network.named_buffers():
        if name.endswith(STATISTICS):
            tensor.uniform_(1, 5)
    return model.with_network(network)


def test_the_first_norm_has_the_mean_over_batches_of_what_the_first_convolution_gives(
    model: Model, images: Tensor
) -> None:
    found = with_statistics_of(model.network, images, batch_size=10)
    halves = [model.network.get_submodule("layers.0.convolution")(half) for half in images.split(10)]
    means = torch.stack([half.mean(dim=(0, 2, 3)) for half in halves]).mean(dim=0)
    variances = torch.stack([half.var(dim=(0, 2, 3)) for half in halves]).mean(dim=0)
    torch.testing.assert_close(found.get_buffer("layers.0.norm.running_mean"), means)
    torch.testing.assert_close(found.get_buffer("layers.0.norm.running_var"), variances)


def test_a_network_in_eval_mode_gives_what_it_gives_in_training_on_the_same_batch(model: Model, images: Tensor) -> None:
    """But for the variance, of which the deepest has 80 numbers: it is unbiased in one of them, not in the other."""
    found = with_statistics_of(model.network, images, batch_size=len(images))
    training = copy.deepcopy(model.network).train()
    with torch.no_grad():
        for there, expected in zip(found(images), training(images), strict=True):
            torch.testing.assert_close(there, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_what_the_statistics_were_before_does_not_matter_and_weights_stay(tmp_path: Path, model: Model) -> None:
    write_digits(tmp_path / "digits", {"train": 6})
    devkit = open_devkit(tmp_path / "digits")
    log = logging.getLogger("tests.statistics")
    data = Data(root=str(devkit.root))
    bench = StageWorkbench(0, tmp_path, log, lambda *_: None, devkit, data, Measure(), architecture=model.architecture)
    wrong = spoilt(model)
    before = copy.deepcopy(wrong.network.state_dict())
    config = StatisticsOptions(images=6, batch_size=3)
    one, other = (BatchNorm().apply(given, config, bench).network for given in (model, wrong))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
        if not name.endswith((*STATISTICS, "num_batches_tracked")):
            assert torch.equal(tensor, before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in wrong.network.state_dict().items())
    assert not one.training
    assert {norm.momentum for norm in one.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}


def test_more_images_than_there_are_and_a_network_without_norms_are_refused_before(model: Model) -> None:
    with pytest.raises(InputError, match=r"^images: 12 asked for, but the image set 'train' has 6"):
        BatchNorm().check(model, StatisticsOptions(images=12), ImageCounts(train=6))
    without = model.with_network(nn.Identity())
    with pytest.raises(InputError, match="has no BatchNorm"):
        BatchNorm().plan(without, StatisticsOptions())
