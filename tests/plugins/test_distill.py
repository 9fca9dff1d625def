"""The distillers of a recipe, each on a tiny student and a teacher of another architecture, width and input size."""

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from seen_images import let_see
from small_training import KilledError, few_digits

from detpress.contract.registry import load_plugin
from detpress.detector.architecture import build_architecture
from detpress.detector.images import network_input
from detpress.detector.model import Model, new_model
from detpress.distillation.taught import Taught
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training import module as training_module
from detpress.training.dataset import TrainingSet, collate
from detpress.training.image_counts import ImageCounts
from detpress.training.objective import TrainingStart, TrainingStep, outputs_of, total
from detpress.voc.devkit import Devkit

LOG = logging.getLogger("tests.distill")
SHORT = {"epochs": 2, "batch_size": 4}
STEPS = 6  # of SHORT: twelve images
MORE: dict[str, Any] = {"distill.fitnets": {"hint_epochs": 1}}
TERMS = {
    "distill.pkd": {"pkd"},
    "distill.crosskd": {"cross_box", "cross_objectness", "cross_classes"},
    "distill.hinton": {"soft_objectness", "soft_classes"},
    "distill.chen": {"soft_objectness", "soft_classes", "bounded", "hint"},
    "distill.fitnets": {"soft_objectness", "soft_classes"},
    "distill.detector": {"pkd", "cross_box", "cross_objectness", "cross_classes"},
}
MASKED = "layers.13.convolution.weight"  # of what the first head takes


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 12)


@pytest.fixture(scope="module")
def teacher(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its BatchNorms have seen images: in a deep network that has not, every map is constant."""
    model = new_model(build_architecture("yolov3", devkit.classes, 96, width=0.05), seed=1)
    let_see(model.network, torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path_factory.mktemp("teacher") / "bundle"
    save_bundle(model, folder)
    return folder


@pytest.fixture(scope="module")
def student(devkit: Devkit) -> Model:
    """With two filters of a layer that learns from the teacher masked."""
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.0625), seed=0)
    weight = model.network.get_parameter(MASKED)
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:2] = False
    with torch.no_grad():
        weight.mul_(mask)
    return model.with_network(model.network, masks={MASKED: mask})


def workbench(devkit: Devkit, model: Model, teacher: Path, scratch: Path, stop_at: int | None = None) -> StageWorkbench:
    def progress(what: str, done: int, total: int) -> None:
        if done == stop_at:
            raise KilledError

    scratch.mkdir(exist_ok=True)
    return StageWorkbench(
        0,
        scratch,
        LOG,
        progress,
        devkit,
        Data(root=str(devkit.root)),
        Measure(),
        architecture=model.architecture,
        bundles=(str(teacher),),
    )


def options(name: str, teacher: Path | str) -> Any:
    config = load_plugin(name).Config
    return config.model_validate({"teacher": str(teacher), "training": SHORT} | MORE.get(name, {}))


def distilled(name: str, student: Model, config: Any, bench: StageWorkbench) -> Model:
    return load_plugin(name).apply(student, config, bench)


@dataclass(frozen=True)
class Distilled:
    """A student taught without a disturbance, and where its training lies."""

    name: str
    model: Model
    scratch: Path


@pytest.fixture(scope="module", params=TERMS)
def whole(
    request: pytest.FixtureRequest,
    devkit: Devkit,
    student: Model,
    teacher: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Distilled:
    scratch = tmp_path_factory.mktemp("whole")
    config = options(request.param, teacher)
    model = distilled(request.param, student, config, workbench(devkit, student, teacher, scratch))
    return Distilled(request.param, model, scratch)


def same(one: Model, other: Model) -> bool:
    mine, others = one.network.state_dict(), other.network.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)


def test_the_student_learns_its_own_task_and_from_the_teacher_and_its_masks_hold(
    whole: Distilled, student: Model
) -> None:
    header = (whole.scratch / "fit-0/training.csv").read_text().splitlines()[0].split(",")
    assert set(header) == {"epoch", "box", "objectness", "classes"} | TERMS[whole.name]
    assert not same(whole.model, student)
    assert not whole.model.network.get_parameter(MASKED)[:2].any()
    assert whole.model.network.state_dict().keys() == student.network.state_dict().keys()


def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    whole: Distilled,
    devkit: Devkit,
    student: Model,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    config = options(whole.name, teacher)
    before = copy.deepcopy(student)
    with pytest.raises(KilledError):
        distilled(whole.name, student, config, workbench(devkit, student, teacher, tmp_path, stop_at=STEPS - 1))
    again = distilled(whole.name, student, config, workbench(devkit, student, teacher, tmp_path))
    assert same(again, whole.model)
    assert same(student, before)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_reach_the_student_and_never_the_teacher(
    name: str, devkit: Devkit, student: Model, teacher: Path
) -> None:
    config = options(name, teacher)
    network = copy.deepcopy(student.network).train()
    squares, targets = collate([TrainingSet(devkit, "train", student.architecture)[i] for i in range(4)])
    images = network_input(squares)
    [taught] = [one for one in load_plugin(name).objectives(config) if isinstance(one, Taught)]
    taught.prepare(
        TrainingStart(
            network, student.architecture, config.training, STEPS, 0, LOG, lambda name: load_bundle(Path(name))
        )
    )
    with outputs_of(network, taught.layers) as outputs:
        maps = network(images)
    total(taught.terms(TrainingStep(images, targets, network, maps, outputs, 0, STEPS))).backward()
    gradient = network.get_parameter("layers.0.convolution.weight").grad
    assert gradient is not None
    assert gradient.any()
    assert all(parameter.grad is None for parameter in taught.teacher.network.parameters())
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            taught.teacher.network.state_dict().values(),
            load_bundle(teacher).network.state_dict().values(),
            strict=True,
        )
    )


@pytest.mark.parametrize("name", TERMS)
def test_a_teacher_of_other_classes_is_refused_before_anything_is_computed(
    name: str, student: Model, teacher: Path
) -> None:
    load_plugin(name).check(student, options(name, teacher), ImageCounts())
    reordered = replace(student.architecture, classes=student.architecture.classes[::-1])
    with pytest.raises(InputError, match=r"^teacher: knows the classes .*; expected .*, as the student does$"):
        load_plugin(name).check(new_model(reordered, seed=0), options(name, teacher), ImageCounts())


@pytest.mark.parametrize("name", TERMS)
def test_several_devices_are_refused_before_anything_is_computed(name: str, student: Model, teacher: Path) -> None:
    config = options(name, teacher)
    several = config.model_copy(update={"training": config.training.model_copy(update={"devices": 2})})
    with pytest.raises(
        InputError, match=r"^training\.devices: expected 1 where more is learnt than the detection loss"
    ):
        load_plugin(name).check(student, several, ImageCounts())
