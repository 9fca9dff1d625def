"""Distillations with an adversary on tiny networks: who learns from whom, and that a kill changes nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distill import KilledError, devkit, same
from torch import Tensor, nn

from detpress.contract.registry import load_plugin
from detpress.detector.architecture import build_architecture
from detpress.detector.model import Model, new_model
from detpress.distillation.gan import Gan
from detpress.distillation.kdgan import Kdgan
from detpress.distillation.options import GanOptions, KdganOptions
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig
from detpress.training.dataset import TrainingSet, collate
from detpress.training.image_counts import ImageCounts
from detpress.training.objective import Terms, TrainingStart, TrainingStep, outputs_of
from detpress.training.trainer import TrainingContext, fit
from detpress.voc.devkit import Devkit

__all__ = ["devkit"]  # a fixture
LOG = logging.getLogger("tests.distill")
SHORT = TrainingConfig(epochs=2, batch_size=4)
STEPS = 6  # of SHORT: twelve images
TERMS = {
    "gan": {"gan_critic", "gan", "gan_heads"},
    "kdgan": {"kdgan_discriminator", "kdgan_teacher", "kdgan_reward", "kdgan_imitation"},
}


def model_of(devkit: Devkit, side: int, width: float, seed: int, architecture: str = "yolov3-tiny") -> Model:
    return new_model(build_architecture(architecture, devkit.classes, side, width=width), seed)


@pytest.fixture(scope="module")
def student(devkit: Devkit) -> Model:
    return model_of(devkit, 64, 0.0625, seed=0)


@pytest.fixture(scope="module")
def teachers(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the objective that they teach in; critics also compare maps of other sizes."""
    folder = tmp_path_factory.mktemp("teachers")
    save_bundle(model_of(devkit, 96, 0.1, seed=1), folder / "gan")
    save_bundle(model_of(devkit, 64, 0.1, seed=1), folder / "kdgan")
    return {name: folder / name for name in TERMS}


class Watched:
    """What an objective did in a training."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.largest: list[float] = []  # weight of a critic when the student learns from it

    def optimizer(self) -> torch.optim.Optimizer:
        self.made = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.stepped = super().optimizer()
        return self.stepped

    def terms(self, step: TrainingStep) -> Terms:
        weights = [
            parameter.detach().abs().max() for group in self.stepped.param_groups for parameter in group["params"]
        ]
        self.largest.append(float(torch.stack(weights).max()))
        return super().terms(step)


class WatchedGan(Watched, Gan):
    pass


class WatchedKdgan(Watched, Kdgan):
    pass


def objective(name: str, teacher: Path) -> Any:
    return {
        "gan": lambda: WatchedGan(GanOptions(teacher=str(teacher))),
        "kdgan": lambda: WatchedKdgan(KdganOptions(teacher=str(teacher))),
    }[name]()


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def stop_in_the_last_step(what: str, done: int, total: int) -> None:
    if done == STEPS - 1:
        raise KilledError


def train(
    student: Model, made: Any, devkit: Devkit, scratch: Path, progress: Callable[[str, int, int], None] = quiet
) -> Model:
    scratch.mkdir(exist_ok=True)
    return fit(student, SHORT, TrainingContext(devkit, "train", 0, scratch, LOG, progress), (made,))


@dataclass(frozen=True)
class Trained:
    name: str
    model: Model
    objective: Any
    scratch: Path


@pytest.fixture(scope="module", params=TERMS)
def trained(
    request: pytest.FixtureRequest,
    devkit: Devkit,
    student: Model,
    teachers: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    scratch = tmp_path_factory.mktemp("whole")
    made = objective(request.param, teachers[request.param])
    return Trained(request.param, train(student, made, devkit, scratch), made, scratch)


def learnt(objective: Any, *parts: str) -> bool:
    """Whether every weight of these parts of an objective has changed since it was made."""
    state = {name: tensor for name, tensor in objective.state_dict().items() if name.endswith("weight")}
    mine = [name for name in state if name.startswith(parts)]
    assert mine
    return not any(torch.equal(state[name], objective.made[name]) for name in mine)


def test_student_and_adversary_learn_and_the_teacher_does_not(
    trained: Trained, student: Model, teachers: dict[str, Path]
) -> None:
    header = (trained.scratch / "training.csv").read_text().splitlines()[0].split(",")
    assert set(header) == {"epoch", "box", "objectness", "classes"} | TERMS[trained.name]
    assert not same(trained.model, student)
    assert learnt(
        trained.objective, *{"gan": ("critics.", "adapters."), "kdgan": ("learner.", "discriminator.")}[trained.name]
    )
    bundle = load_bundle(teachers[trained.name])
    assert same(Model(trained.objective.teacher.network), bundle)
    assert all(parameter.grad is None for parameter in trained.objective.teacher.network.parameters())


def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    trained: Trained,
    devkit: Devkit,
    student: Model,
    teachers: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KilledError):
        train(student, objective(trained.name, teachers[trained.name]), devkit, tmp_path, stop_in_the_last_step)
    again = objective(trained.name, teachers[trained.name])
    assert same(train(student, again, devkit, tmp_path), trained.model)
    assert 0 < len(again.largest) < STEPS, "it went on"
    mine, whole = again.state_dict(), trained.objective.state_dict()
    assert all(torch.equal(mine[name], whole[name]) for name in whole)
    moments, others = (made.stepped.state_dict()["state"] for made in (again, trained.objective))
    assert moments.keys() == others.keys()
    assert all(torch.equal(moments[i][name], others[i][name]) for i in others for name in others[i])


def test_a_critics_weights_are_within_the_clip_whenever_the_student_learns_from_it(trained: Trained) -> None:
    if trained.name == "gan":
        assert len(trained.objective.largest) == STEPS
        assert max(trained.objective.largest) == pytest.approx(0.03)


@dataclass(frozen=True)
class Step:
    """One step of an objective that was prepared, and what the network gave in it."""

    objective: Any
    now: TrainingStep


@pytest.fixture(params=TERMS)
def step(request: pytest.FixtureRequest, devkit: Devkit, student: Model, teachers: dict[str, Path]) -> Step:
    torch.manual_seed(0)
    made = objective(request.param, teachers[request.param])
    network = student.network.train().requires_grad_(True)
    made.prepare(
        TrainingStart(network, student.architecture, SHORT, STEPS, 0, LOG, lambda name: load_bundle(Path(name)))
    )
    data = TrainingSet(devkit, "train", student.architecture)
    images, targets = collate([data[i] for i in range(4)])
    seen = images.float() / 255
    with outputs_of(network, made.layers) as outputs:
        maps = network(seen)
    return Step(made, TrainingStep(seen, targets, network, maps, outputs, 0, STEPS))


def gradients(of: Tensor, tensors: list[Tensor]) -> list[float]:
    found = torch.autograd.grad(of, tensors, retain_graph=True, allow_unused=True)
    return [0.0 if gradient is None else float(gradient.abs().max()) for gradient in found]


def test_the_adversarial_gradient_reaches_the_students_maps(step: Step) -> None:
    step.objective.optimizer()
    terms = step.objective.terms(step.now)
    if "gan" in terms:
        assert all(gradients(terms["gan"], list(step.now.outputs.values())))
        assert all(gradients(terms["gan_heads"], list(step.now.outputs.values())))
    else:
        assert any(gradients(terms["kdgan_reward"], list(step.now.maps)))
        assert any(gradients(terms["kdgan_imitation"], list(step.now.maps)))


def test_what_the_adversary_learns_from_has_no_gradient_for_the_student(step: Step) -> None:
    own = step.objective.own_terms(step.now)  # not detached, as it is in a training
    torch.autograd.backward(list(own.values()))
    theirs: list[nn.Parameter] = [p for group in step.objective.optimizer().param_groups for p in group["params"]]
    assert all(p.grad is not None for p in theirs if p.ndim > 1)
    assert all(p.grad is None for name, p in step.objective.named_parameters() if name.startswith("adapters."))
    assert all(p.grad is None or not p.grad.any() for p in step.now.network.parameters())


def test_copies_that_learn_keep_the_statistics_of_batchnorm(trained: Trained) -> None:
    statistics = [name for name in trained.objective.made if "running" in name]
    assert bool(statistics) is (trained.name == "kdgan")
    state = trained.objective.state_dict()
    assert all(torch.equal(state[name], trained.objective.made[name]) for name in statistics)


@pytest.mark.parametrize(
    ("name", "side", "architecture", "classes", "said"),
    [
        ("gan", 64, "yolov3", 10, "teacher: has 3 heads, and the student has the strides of 2; expected all"),
        ("kdgan", 96, "yolov3-tiny", 10, "teacher: sees 96 pixels; expected 64, as the student does"),
        ("kdgan", 64, "yolov3", 10, "teacher: has the anchors .*; expected the same"),
        ("kdgan", 64, "yolov3-tiny", 1, "teacher: knows the class zero alone; expected two, to draw labels from"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_is_computed(
    name: str, side: int, architecture: str, classes: int, said: str, devkit: Devkit, tmp_path: Path
) -> None:
    known = devkit.classes[-classes:]
    save_bundle(new_model(build_architecture(architecture, known, side, width=0.05), 1), tmp_path / "teacher")
    taught = new_model(build_architecture("yolov3-tiny", known, 64, width=0.0625), 0)
    plugin = load_plugin(f"distill.{name}")
    config = plugin.Config.model_validate({"teacher": str(tmp_path / "teacher"), "training": {"epochs": 1}})
    with pytest.raises(InputError, match=f"^{said}"):
        plugin.check(taught, config, ImageCounts())
