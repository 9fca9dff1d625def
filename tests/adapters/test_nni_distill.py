"""NNI's distillers on small networks of two widths and generated digits."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import KilledError, few_digits
from torch import Tensor
from torch.nn import functional

from detpress.adapters.nni_distill import ChannelsLast, TappedNetwork, distill
from detpress.detector.architecture import build_architecture
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig
from detpress.voc.devkit import Devkit

LOG = logging.getLogger("tests.nni_distill")
SHORT = TrainingConfig(epochs=2, batch_size=4)
STEPS = 6  # twelve images, two epochs
HEADS = {15: [15], 22: [22]}
BEFORE_HEADS = {14: [14], 21: [21]}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 12)


@pytest.fixture(scope="module")
def student(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.0625), seed=0)


@pytest.fixture(scope="module")
def teacher(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.125), seed=1)


def workbench(devkit: Devkit, model: Model, scratch: Path, stop_at: int | None = None) -> StageWorkbench:
    def progress(what: str, done: int, total: int) -> None:
        if done == stop_at:
            raise KilledError

    scratch.mkdir(exist_ok=True)
    data = Data(root=str(devkit.root))
    return StageWorkbench(0, scratch, LOG, progress, devkit, data, Measure(), architecture=model.architecture)


def distilled(
    distiller: Any, student: Model, teacher: Model, bench: StageWorkbench, links: dict[int, list[int]], **changes: Any
) -> Network:
    options = {"loss": "mse", "weight": 1.0, "detection_weight": 1.0} | changes
    return distill(distiller, student, teacher.network, links, training=SHORT, bench=bench, **options)


def maps_of(network: torch.nn.Module, layers: list[int], images: Tensor) -> list[Tensor]:
    tapped = TappedNetwork(copy.deepcopy(network).eval(), layers)
    seen: list[Tensor] = []
    for i in layers:
        tapped.taps[f"layers_{i}"].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        tapped(images)
    return seen


def test_taps_show_the_maps_with_channels_last(student: Model) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = student.network.eval()(images)
    for seen, raw in zip(maps_of(student.network, list(HEADS), images), maps, strict=True):
        assert torch.equal(seen, raw.permute(0, 2, 3, 1).flatten(0, 2))


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_the_teacher_alone_draws_the_students_raw_maps_to_its_own(
    loss: Any, devkit: Devkit, student: Model, teacher: Model, tmp_path: Path
) -> None:
    bench = workbench(devkit, student, tmp_path)
    network = distilled("dynamic", student, teacher, bench, HEADS, loss=loss, detection_weight=0.0)
    images = bench.calibration(12)
    targets = maps_of(teacher.network, list(HEADS), images)

    def distance(other: torch.nn.Module) -> float:
        pairs = zip(maps_of(other, list(HEADS), images), targets, strict=True)
        if loss == "mse":
            return float(sum(functional.mse_loss(one, two) for one, two in pairs))
        return float(
            sum(functional.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="batchmean") for one, two in pairs)
        )

    assert distance(network) < 0.95 * distance(student.network)


def test_the_nearest_of_several_layers_counts(devkit: Devkit, student: Model, tmp_path: Path) -> None:
    """Layer 8 is linked to itself and to layer 21, of as many channels and the same size, but far away."""
    teacher = copy.deepcopy(student)
    torch.nn.init.constant_(teacher.network.get_parameter("layers.21.norm.bias"), 100.0)
    weights = {}
    for layers in ((8, 21), (8,), (21,)):
        bench = workbench(devkit, student, tmp_path / str(layers))
        network = distilled("dynamic", student, teacher, bench, {8: list(layers)}, detection_weight=0.0)
        weights[layers] = network.state_dict()["layers.0.convolution.weight"]
    assert torch.equal(weights[8, 21], weights[8,])
    assert not torch.equal(weights[8, 21], weights[21,])


def test_a_narrow_student_learns_maps_of_a_wide_teacher(
    devkit: Devkit, student: Model, teacher: Model, tmp_path: Path
) -> None:
    """The best linear map of the student's channels explains more of the teacher's maps than it did before."""
    bench = workbench(devkit, student, tmp_path)
    network = distilled("adaptive1d", student, teacher, bench, BEFORE_HEADS, detection_weight=0.0)
    images = bench.calibration(12)
    targets = maps_of(teacher.network, [21], images)[0]

    def unexplained(other: torch.nn.Module) -> float:
        own = maps_of(other, [21], images)[0]
        own = torch.cat([own, torch.ones(len(own), 1)], dim=1)
        return float((targets - own @ torch.linalg.lstsq(own, targets).solution).square().mean())

    assert unexplained(network) < unexplained(student.network)


@pytest.mark.parametrize(("distiller", "links"), [("dynamic", HEADS), ("adaptive1d", BEFORE_HEADS)])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    distiller: Any, links: dict[int, list[int]], devkit: Devkit, student: Model, teacher: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    before = [copy.deepcopy(model.network.state_dict()) for model in (student, teacher)]
    whole = distilled(distiller, student, teacher, workbench(devkit, student, tmp_path / "whole"), links)
    killed = workbench(devkit, student, tmp_path / "killed", stop_at=STEPS - 1)
    with pytest.raises(KilledError):
        distilled(distiller, student, teacher, killed, links)
    again = distilled(distiller, student, teacher, workbench(devkit, student, tmp_path / "killed"), links)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
    assert not torch.equal(whole.state_dict()["layers.0.convolution.weight"], before[0]["layers.0.convolution.weight"])
    for model, tensors in zip((student, teacher), before, strict=True):
        assert all(torch.equal(tensors[name], tensor) for name, tensor in model.network.state_dict().items())
    assert type(whole) is Network
    for module in whole.modules():
        assert type(module).__module__.split(".")[0] in ("torch", "detpress")
        assert "forward" not in vars(module)
        assert not module._forward_hooks


def test_a_link_weighs_the_same_however_many_places_its_map_has() -> None:
    """By NNI's own reduction of the KL divergence."""
    place, other = torch.rand(1, 4, 1, 1), torch.rand(4).softmax(0)
    one, many = (ChannelsLast()(place.expand(1, 4, size, size)) for size in (1, 3))
    assert (one.shape, many.shape) == ((1, 4), (9, 4))
    losses = [functional.kl_div(x.log_softmax(-1), other.expand_as(x), reduction="batchmean") for x in (one, many)]
    torch.testing.assert_close(*losses)
