"""Objectives: what they see, what learns, and that a kill changes nothing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import SHORT, devkit, root, same_weights, small_model, train
from torch import Tensor, nn

from detpress.detector.model import Model
from detpress.errors import InputError, StageError
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig
from detpress.training.detection import Detection
from detpress.training.module import DetectorTraining
from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep, checked_terms
from detpress.training.snapshot import Snapshot
from detpress.training.teacher import Teacher
from detpress.voc.devkit import Devkit

__all__ = ["devkit", "root"]  # fixtures
STEPS = 12  # of SHORT: twelve images, four epochs
BEFORE_HEAD = "layers.14"


class KilledError(Exception):
    """Ends a training where it is."""


def stop_at(step: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, total: int) -> None:
        if done == step:
            raise KilledError

    return progress


class Critic(Objective):
    """Tells large maps from small ones, now and then; noise is drawn from the global generator."""

    def __init__(self, every: int = 1, alone: bool = False) -> None:
        super().__init__()
        self.every, self.alone = every, alone
        self.calls: list[str] = []

    def prepare(self, start: TrainingStart) -> None:
        channels = start.architecture.output_channels[start.architecture.heads[0]]
        self.critic = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))
        self.made = copy.deepcopy(self.critic.state_dict())

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.critic.parameters(), lr=0.01)

    def own_terms(self, step: TrainingStep) -> Terms:
        if step.number % self.every:
            return {}
        assert not step.maps[0].requires_grad
        self.calls.append("critic")
        noise = torch.randn_like(step.maps[0])
        return {"critic": (self.critic(step.maps[0]) - self.critic(noise)).mean()}

    def network_waits(self, step: TrainingStep) -> bool:
        return self.alone and step.number % self.every == 0

    def terms(self, step: TrainingStep) -> Terms:
        self.calls.append("student")
        assert not any(parameter.requires_grad for parameter in self.critic.parameters())
        return {"adversarial": -self.critic(step.maps[0]).mean()}


class Hint(Objective):
    """Draws a layer's map, through an adapter, to the teacher's."""

    def __init__(self, teacher: Model) -> None:
        super().__init__()
        self.model = teacher

    def prepare(self, start: TrainingStart) -> None:
        self.layers = (BEFORE_HEAD,)
        self.teacher = Teacher(self.model, self.layers)
        mine, theirs = (a.output_channels[14] for a in (start.architecture, self.model.architecture))
        self.adapter = nn.Conv2d(mine, theirs, 1)
        self.made = self.adapter.weight.detach().clone()

    def terms(self, step: TrainingStep) -> Terms:
        _, outputs = self.teacher(step.images)
        return {"hint": (self.adapter(step.outputs[BEFORE_HEAD]) - outputs[BEFORE_HEAD]).square().mean()}


class Alone(Hint):
    replaces = Detection.TERMS


class Boxes(Objective):
    """Takes the place of one term by what the objects are."""

    replaces = frozenset({"classes"})

    def terms(self, step: TrainingStep) -> Terms:
        assert len(step.targets.boxes) == len(step.targets.image)
        return {"side": step.maps[0].mean() * 0 + (step.targets.boxes[:, 2] - step.targets.boxes[:, 0]).mean()}


class Spare(Objective):
    def terms(self, step: TrainingStep) -> Terms:
        return {"box": step.maps[0].mean()}


def columns(scratch: Path) -> str:
    return (scratch / "training.csv").read_text().splitlines()[0]


def trained_and_killed(
    make: Callable[[], Objective], devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Model, Objective]:
    """The model and the objective of a training that was killed in its last epoch, the same as undisturbed ones."""
    whole = make()
    undisturbed = train(small_model(devkit), devkit, tmp_path / "whole", objectives=[whole])
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KilledError):
        train(small_model(devkit), devkit, tmp_path / "killed", progress=stop_at(STEPS - 1), objectives=[make()])
    again = make()
    model = train(small_model(devkit), devkit, tmp_path / "killed", objectives=[again])
    assert same_weights(model, undisturbed)
    mine, other = again.state_dict(), whole.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert (tmp_path / "killed/training.csv").read_text() == (tmp_path / "whole/training.csv").read_text()
    return model, again


@pytest.mark.parametrize("alone", [False, True])
def test_a_critic_steps_first_and_goes_on_to_the_same_bits(
    alone: bool, devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    critic: Any
    torch.manual_seed(5)
    drawn_before = torch.get_rng_state()
    _, critic = trained_and_killed(lambda: Critic(2, alone), devkit, tmp_path, monkeypatch)
    assert torch.equal(torch.get_rng_state(), drawn_before)
    header = columns(tmp_path / "whole").split(",")
    assert sorted(header) == ["adversarial", "box", "classes", "critic", "epoch", "objectness"]
    turn = ["student", "critic"] if alone else ["student", "critic", "student"]  # from step 9, an odd one, on
    assert critic.calls == [*turn, "student"]
    assert not torch.equal(critic.critic[0].weight, critic.made["0.weight"])


def test_a_step_in_which_the_network_waits_changes_nothing_of_it(devkit: Devkit, tmp_path: Path) -> None:
    critic = Critic(1, alone=True)
    untrained = small_model(devkit)
    trained = train(untrained, devkit, tmp_path, objectives=[critic])
    before, after = dict(untrained.network.named_parameters()), dict(trained.network.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(critic.critic[0].weight, critic.made["0.weight"])


def test_a_critic_alone_changes_no_weight_of_the_network(devkit: Devkit, tmp_path: Path) -> None:
    class Onlooker(Critic):
        def terms(self, step: TrainingStep) -> Terms:
            return {}

    plain = train(small_model(devkit), devkit, tmp_path / "plain")
    assert same_weights(train(small_model(devkit), devkit, tmp_path / "seen", objectives=[Onlooker()]), plain)


def test_an_adapter_learns_with_the_network_and_goes_on_to_the_same_bits(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint: Any
    teacher = small_model(devkit, seed=1)
    model, hint = trained_and_killed(lambda: Hint(teacher), devkit, tmp_path, monkeypatch)
    assert columns(tmp_path / "whole") == "epoch,box,objectness,classes,hint"
    assert not torch.equal(hint.adapter.weight, hint.made)
    assert not any(module._forward_hooks for module in model.network.modules())
    assert same_weights(teacher, small_model(devkit, seed=1))


def test_the_detection_loss_can_be_left_out(devkit: Devkit, tmp_path: Path) -> None:
    untrained = small_model(devkit)
    trained = train(untrained, devkit, tmp_path, objectives=[Alone(small_model(devkit, seed=1))])
    assert columns(tmp_path) == "epoch,hint"
    for layer, learns in ((14, True), (15, False)):
        name = f"layers.{layer}.convolution.weight"
        changed = not torch.equal(trained.network.get_parameter(name), untrained.network.get_parameter(name))
        assert changed is learns, "what the hint does not pass through has nothing to learn from"


def test_a_term_can_take_the_place_of_another(devkit: Devkit, tmp_path: Path) -> None:
    train(small_model(devkit), devkit, tmp_path, objectives=[Boxes()])
    assert columns(tmp_path) == "epoch,box,objectness,side"


def test_the_detection_loss_may_be_named(devkit: Devkit, tmp_path: Path) -> None:
    plain = train(small_model(devkit), devkit, tmp_path / "plain")
    assert same_weights(train(small_model(devkit), devkit, tmp_path / "named", objectives=[Detection()]), plain)


def test_two_terms_of_one_name_a_layer_that_is_not_there_and_several_devices_are_refused(
    devkit: Devkit, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="two objectives give a term 'box'"):
        train(small_model(devkit), devkit, tmp_path, objectives=[Spare()])
    hint = Spare()
    hint.layers = ("layers.99",)
    with pytest.raises(InputError, match=r"Spare wants to see layers\.99, which the network does not have"):
        train(small_model(devkit), devkit, tmp_path, objectives=[hint])
    with pytest.raises(InputError, match="devices: expected 1 where more is learnt than the detection loss, got 2"):
        train(small_model(devkit), devkit, tmp_path, TrainingConfig(epochs=1, devices=2), objectives=[Spare()])


def test_the_weights_of_a_step_can_be_gone_back_to(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshots() -> list[Snapshot]:
        return [Snapshot(share=0.0), Snapshot(share=0.25), Snapshot(step=3), Snapshot(share=1.0)]

    def tensors(model: Model) -> dict[str, Tensor]:
        return model.network.state_dict()

    plain = train(small_model(devkit), devkit, tmp_path / "plain")
    whole = snapshots()
    assert same_weights(train(small_model(devkit), devkit, tmp_path / "whole", objectives=whole), plain)
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KilledError):
        train(small_model(devkit), devkit, tmp_path / "killed", progress=stop_at(STEPS - 1), objectives=snapshots())
    killed = snapshots()
    trained = train(small_model(devkit), devkit, tmp_path / "killed", objectives=killed)
    start, tenth, third, end = (snapshot.model(trained) for snapshot in killed)
    assert same_weights(start, small_model(devkit))
    assert same_weights(tenth, third)
    assert all(
        same_weights(mine.model(trained), other.model(trained)) for mine, other in zip(killed, whole, strict=True)
    )
    last = train(small_model(devkit), devkit, tmp_path / "last", SHORT.model_copy(update={"ema": 0.0}))
    assert same_weights(end, last)
    assert not torch.equal(tensors(tenth)["layers.0.norm.running_mean"], tensors(start)["layers.0.norm.running_mean"])
    assert int(tensors(tenth)["layers.0.norm.num_batches_tracked"]) == 3
    with pytest.raises(InputError, match="a snapshot of step 13: expected 0 to 12"):
        train(small_model(devkit), devkit, tmp_path / "late", objectives=[Snapshot(step=13)])


def test_a_checkpoint_of_an_older_version_is_gone_on_from(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(small_model(devkit), devkit, tmp_path / "whole")
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    save = DetectorTraining.on_save_checkpoint

    def save_as_before(self: DetectorTraining, checkpoint: dict[str, Any]) -> None:
        save(self, checkpoint)
        del checkpoint["history"], checkpoint["objectives"]
        sums, counts = (torch.tensor(list(table.values())).T for table in (self.history.sums, self.history.counts))
        checkpoint["state_dict"]["history"] = sums.double() / counts.clamp(min=1)
        checkpoint["engine"] = None

    with monkeypatch.context() as older:
        older.setattr(DetectorTraining, "on_save_checkpoint", save_as_before)
        with pytest.raises(KilledError):
            train(small_model(devkit), devkit, tmp_path / "killed", progress=stop_at(STEPS - 1))
    steps: list[int] = []
    resumed = train(
        small_model(devkit), devkit, tmp_path / "killed", progress=lambda what, done, total: steps.append(done)
    )
    assert steps == [10, 11, 12]
    assert same_weights(resumed, whole)
    assert columns(tmp_path / "killed") == "epoch,box,objectness,classes"
    assert len((tmp_path / "killed/training.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "gave NoneType; expected terms by name"),
        (torch.zeros(()), "gave Tensor; expected terms by name"),
        ({"large": torch.zeros(3)}, r"gave a tensor of shape \[3\] as the term 'large'; expected a scalar"),
        ({"large": 0.5}, "gave float as the term 'large'; expected a scalar"),
        ({3: torch.zeros(())}, r"gave a tensor of shape \[\] as the term 3; expected a scalar"),
        ({"large": torch.tensor(0.5)}, "gave the constant 0.5 as the term 'large'; expected a term that depends on"),
    ],
)
def test_terms_are_scalars_by_their_names_and_what_is_not_is_said_with_the_objectives_name(
    found: object, said: str
) -> None:
    with pytest.raises(StageError, match=f"^the objective Objective {said}"):
        checked_terms(Objective(), found)


def test_a_constant_may_stand_beside_a_term_that_learns() -> None:
    """So NNI's objective shows the parts of a loss that NNI has changed."""
    found = {"box": torch.tensor(0.5), "nni": torch.tensor(1.0, requires_grad=True)}
    assert checked_terms(Objective(), found) == found


class Now(Objective):
    """A term that is nothing in every second step, and in none of a training where nothing else is learnt."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.replaces = Detection.TERMS if alone else frozenset()  # type: ignore[misc]

    def terms(self, step: TrainingStep) -> Terms:
        return {"now": step.maps[0].square().mean() if step.number % 2 else torch.zeros(())}


def test_a_term_may_be_nothing_in_some_steps_where_something_else_is_learnt(devkit: Devkit, tmp_path: Path) -> None:
    train(small_model(devkit), devkit, tmp_path / "beside", objectives=[Now(alone=False)])
    with pytest.raises(StageError, match="no objective gives a term to learn; expected one, or `network_waits`"):
        train(small_model(devkit), devkit, tmp_path / "alone", objectives=[Now(alone=True)])
