"""An objective of another package, in one file and one entry point: a critic with an optimizer of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command
from test_interruption import digests

from detpress import doors

STRANGER = '''
"""Adversarial distillation: a critic tells the teacher's raw maps from the student's."""

import torch
from pydantic import Field
from torch import nn

from detpress.api import BundleName, InputError, Model, Objective, Options, Teacher, Terms, TrainingStart, TrainingStep


class CriticOptions(Options):
    teacher: BundleName = Field(description="the teacher's bundle")
    weight: float = Field(0.1, gt=0, description="factor of what the critic says")
    rate: float = Field(5e-4, gt=0, description="the critic's learning rate")


class Critic(Objective):
    """The student learns to give coarse maps that a critic takes for the teacher's."""

    Config = CriticOptions

    def check(self, model: Model) -> None:
        if len(model.architecture.classes) != 10:
            raise InputError(f"teacher: knows 10 classes, the student {len(model.architecture.classes)}")

    def prepare(self, start: TrainingStart) -> None:
        self.teacher = Teacher(start.load(self.config.teacher))
        channels = start.architecture.output_channels[start.architecture.heads[0]]
        self.critic = nn.Sequential(
            nn.Conv2d(channels, 8, 1), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Flatten(), nn.LazyLinear(1)
        )
        self.critic(torch.zeros(1, channels, start.architecture.image_size // 32, start.architecture.image_size // 32))

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.critic.parameters(), lr=self.config.rate, betas=(0.5, 0.999))

    def own_terms(self, step: TrainingStep) -> Terms:
        (coarse, *_), _ = self.teacher(step.images)
        return {"critic": self.critic(step.maps[0].float()).mean() - self.critic(coarse.float()).mean()}

    def terms(self, step: TrainingStep) -> Terms:
        return {"adversarial": -self.config.weight * self.critic(step.maps[0].float()).mean()}

    def after_step(self, step: TrainingStep) -> None:
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.clamp_(-0.03, 0.03)
'''

# `detpress run small.yaml`, killed with SIGKILL in the last of the training's epochs.
KILLED = """
import os, signal, sys
from detpress import cli
from detpress.run.terminal import TerminalListener
from detpress.training import module as training_module

def progress(self, what, done, total):
    if what.startswith("epoch 3"):
        os.kill(os.getpid(), signal.SIGKILL)

training_module.CHECKPOINT_SECONDS = 0.0
TerminalListener.progress = progress
sys.argv = ["detpress", "run", "small.yaml"]
cli.main()
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a distribution with this objective, installed."""
    folder = tmp_path / "stranger"
    info = folder / "stranger-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "stranger_critic.py").write_text(STRANGER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[detpress.objectives]\nmine.critic = stranger_critic:Critic\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    doors.entries_of.cache_clear()
    yield folder / "stranger_critic.py"
    doors.entries_of.cache_clear()


@pytest.fixture
def recipe(workplace: Path, bundle: Path) -> Path:
    (workplace / "teacher").symlink_to(bundle)
    path = workplace / "small.yaml"
    path.write_text(
        "name: small\n"
        "data: {root: digits}\n"
        "model: {arch: yolov3-tiny, width: 0.0625, image_size: 64}\n"
        "chain:\n"
        "  - train.scratch:\n"
        "      epochs: 3\n"
        "      batch_size: 4\n"
        "      objectives: [{mine.critic: {teacher: teacher}}]\n"
        "measure: {runtimes: [], memory: false}\n"
    )
    return path


@pytest.mark.usefixtures("stranger", "recipe")
def test_a_training_with_a_critic_that_was_killed_goes_on_to_the_same_bits(
    detpress: Command, workplace: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((cache / "store/scratch").glob("*/fit-0/last.ckpt"))
    said = detpress("run", "small.yaml", "--out", "killed")
    assert said.code == 0, said.err
    stage = workplace / "killed/1-train.scratch"
    assert "going on from" in (stage / "stage.log").read_text()
    header, *rows = (stage / "training/0.csv").read_text().splitlines()
    assert header == "epoch,box,objectness,classes,adversarial,critic"
    assert len(rows) == 3
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "another"))
    assert detpress("run", "small.yaml", "--out", "undisturbed").code == 0
    assert digests(workplace / "killed") == digests(workplace / "undisturbed")
    assert (workplace / "undisturbed/1-train.scratch/training/0.csv").read_text().splitlines() == [header, *rows]
    assert detpress("report", "killed").code == 0
    page = (workplace / "killed/report.html").read_text()
    for term in ("box", "objectness", "classes", "adversarial", "critic"):
        assert f'data-tip="{term}"' in page
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "without"))
    assert detpress("run", "small.yaml", "--set", "chain[0].objectives=[]", "--out", "without").code == 0
    assert digests(workplace / "without") != digests(workplace / "killed")


@pytest.mark.usefixtures("stranger", "recipe")
@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ("[mine.critik]", "small.yaml:8: chain[0].train.scratch.objectives[0]: unknown objective 'mine.critik'; did"),
        ("[mine.critic]", "small.yaml:8: chain[0].train.scratch.objectives[0].mine.critic.teacher: missing"),
        ("[{mine.critic: {teacher: teacher, weight: -1}}]", "mine.critic.weight: expected greater than 0, got -1"),
        ("[{mine.critic: {teacher: teacher, weigth: 1}}]", "mine.critic.weigth: unknown key; did you mean 'weight'?"),
        ("[{mine.critic: {teacher: nowhere}}]", "/nowhere: not a bundle"),
        ("mine.critic", "objectives: expected a valid list"),
        ("[[mine.critic]]", "expected one objective with its options, such as `detection: {}`"),
    ],
)
def test_what_is_wrong_with_an_objective_is_said_with_its_place(
    objectives: str, message: str, detpress: Command, recipe: Path
) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("[{mine.critic: {teacher: teacher}}]", objectives))
    said = detpress("run", "small.yaml")
    assert said.code == 2
    assert message in said.err.splitlines()[-1]


@pytest.mark.usefixtures("recipe")
def test_an_objective_is_checked_before_anything_is_computed(detpress: Command, stranger: Path, cache: Path) -> None:
    stranger.write_text(STRANGER.replace("!= 10", "!= 11"))
    sys.modules.pop("stranger_critic", None)
    said = detpress("run", "small.yaml")
    assert said.code == 2
    assert "small.yaml:8: chain[0].train.scratch.objectives: mine.critic: teacher: knows 10 classes" in said.err
    assert not (cache / "store").exists()
