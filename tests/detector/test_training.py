"""The trainer: what it promises of the weights, whatever happens meanwhile."""

import copy
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.predict import predict_image_set
from detpress.errors import InputError, StageError
from detpress.progress import Progress
from detpress.training import average_scores
from detpress.training import module as training_module
from detpress.training.config import Augmentation, ChoosingConfig, TrainingConfig
from detpress.training.moving_average import averaged_tensors
from detpress.training.objective import Objective, Terms, TrainingStep
from detpress.training.step import new_optimizer, new_schedule
from detpress.training.trainer import TrainingContext, fit
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits
from detpress.voc.evaluate import evaluate

LOG = logging.getLogger("test.training")
SHORT = TrainingConfig(epochs=4, batch_size=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 12})
    return root


@pytest.fixture(scope="module")
def devkit(root: Path) -> Devkit:
    return open_devkit(root)


def small_model(devkit: Devkit, seed: int = 0) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 96, width=0.1), seed)


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def train(
    model: Model,
    devkit: Devkit,
    scratch: Path,
    config: TrainingConfig = SHORT,
    seed: int = 0,
    progress: Progress = quiet,
    note: Callable[[str], None] | None = None,
    **hooks: Any,
) -> Model:
    scratch.mkdir(exist_ok=True)
    context = TrainingContext(devkit, "train", seed, scratch, LOG, progress, note)
    return fit(model, config, context, **hooks)


def same_weights(a: Model, b: Model) -> bool:
    mine, other = a.network.state_dict(), b.network.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def same_weights_and_statistics(a: Model, b: Model) -> bool:
    """Without BatchNorm's counters of steps, of which there is no average."""
    mine, other = averaged_tensors(a.network), averaged_tensors(b.network)
    return all(torch.equal(mine[name], other[name]) for name in mine)


# Starts the training that `train` starts and kills it with SIGKILL after ten of its twelve steps, in the last epoch.
KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
sys.path.insert(0, {tests!r})
from detpress.training import module as training_module
from detpress.voc.devkit import open_devkit
from test_training import small_model, train

def progress(what, done, total):
    if done == 10:
        os.kill(os.getpid(), signal.SIGKILL)

training_module.CHECKPOINT_SECONDS = 0.0
devkit = open_devkit(Path({root!r}))
train(small_model(devkit), devkit, Path({scratch!r}), progress=progress)
"""


def test_a_killed_training_goes_on_to_the_same_weights(root: Path, devkit: Devkit, tmp_path: Path) -> None:
    whole = train(small_model(devkit), devkit, tmp_path / "whole")
    scratch = tmp_path / "killed"
    scratch.mkdir()
    program = KILLED.format(tests=str(Path(__file__).parent), root=str(root), scratch=str(scratch))
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (scratch / "last.ckpt").is_file()
    steps: list[int] = []
    resumed = train(small_model(devkit), devkit, scratch, progress=lambda what, done, total: steps.append(done))
    assert steps == [10, 11, 12]  # three epochs of three steps were kept
    assert same_weights(resumed, whole)
    assert (scratch / "training.csv").read_text() == (tmp_path / "whole" / "training.csv").read_text()


def test_the_average_is_scored_now_and_then_and_nothing_else_changes(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs of three steps; the last one is not scored, since the model is when it is done."""
    unwatched = train(small_model(devkit), devkit, tmp_path / "unwatched")
    monkeypatch.setattr(average_scores, "SCORE_SECONDS", 0.0)
    monkeypatch.setattr(average_scores, "SCORE_SHARE", 1e9)
    scored: list[Model] = []
    shown: list[str] = []

    def score(model: Model) -> float:
        scored.append(model)
        return len(scored) / 10

    def progress(what: str, done: int, total: int) -> None:
        shown.append(what)

    watched = train(small_model(devkit), devkit, tmp_path / "watched", progress=progress, score=score)
    assert same_weights(watched, unwatched)
    assert not any(same_weights(model, watched) for model in scored)
    maps = [what.partition(", mAP ")[2] for what in shown[::3]]
    assert maps == ["", "0.1000 after 1", "0.2000 after 2", "0.3000 after 3"]


def test_a_score_that_cannot_be_had_ends_no_training(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(average_scores, "SCORE_SECONDS", 0.0)

    def score(model: Model) -> float:
        raise InputError("the image set 'val' has no object")

    config = TrainingConfig(epochs=2, batch_size=4)
    watched = train(small_model(devkit), devkit, tmp_path / "watched", config, score=score)
    assert same_weights(watched, train(small_model(devkit), devkit, tmp_path / "alone", config))


BEST = ChoosingConfig(epochs=4, batch_size=4, choose="best")


class Remembering(float):
    """As the mAP of `bench.evaluate` is one: a float of a class of detpress's own."""


class Scores:
    """Gives one mAP after the other, and keeps what was scored."""

    def __init__(self, *maps: float) -> None:
        self.maps = list(maps)
        self.scored: list[Model] = []

    def __call__(self, model: Model) -> float:
        self.scored.append(model)
        return Remembering(self.maps.pop(0))


def test_the_best_of_the_averages_can_be_chosen_and_a_worse_end_is_noted(devkit: Devkit, tmp_path: Path) -> None:
    notes: list[str] = []
    scores = Scores(0.1, 0.5, 0.4, 0.2)
    best = train(small_model(devkit), devkit, tmp_path / "best", BEST, note=notes.append, score=scores)
    assert [same_weights_and_statistics(best, model) for model in scores.scored] == [False, True, False, False]
    assert notes == [
        "mAP on the validation images was 0.5000 after epoch 2 of 4, which was kept, and 0.2000 at the end"
    ]
    end = train(small_model(devkit), devkit, tmp_path / "last")
    assert same_weights(scores.scored[-1], end)  # scoring changes nothing


def test_of_averages_equally_good_the_last_is_chosen(devkit: Devkit, tmp_path: Path) -> None:
    notes: list[str] = []
    scores = Scores(0.1, 0.5, 0.2, 0.5)
    best = train(small_model(devkit), devkit, tmp_path / "best", BEST, note=notes.append, score=scores)
    assert same_weights(best, train(small_model(devkit), devkit, tmp_path / "last"))
    assert not notes


class KilledError(Exception):
    """Ends a training where it is."""


def test_the_best_average_outlives_a_kill(devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(small_model(devkit), devkit, tmp_path / "whole", BEST, score=Scores(0.5, 0.1, 0.4, 0.2))
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)

    def kill(what: str, done: int, total: int) -> None:
        if done == 10:
            raise KilledError

    with pytest.raises(KilledError):
        train(small_model(devkit), devkit, tmp_path / "killed", BEST, progress=kill, score=Scores(0.5, 0.1, 0.4))
    resumed = train(small_model(devkit), devkit, tmp_path / "killed", BEST, score=Scores(0.2))
    assert same_weights(resumed, whole)
    assert (tmp_path / "killed/validation.csv").read_text().split() == ["epoch,mAP", "1,0.5", "2,0.1", "3,0.4", "4,0.2"]


def test_a_worse_end_is_noted_where_the_last_is_kept(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(average_scores, "SCORE_SECONDS", 0.0)
    monkeypatch.setattr(average_scores, "SCORE_SHARE", 1e9)
    notes: list[str] = []
    config, scores = ChoosingConfig(epochs=4, batch_size=4), Scores(0.1, 0.5, 0.4, 0.2)
    kept = train(small_model(devkit), devkit, tmp_path / "noted", config, note=notes.append, score=scores)
    assert notes == [
        "mAP on the validation images was 0.5000 after epoch 2 of 4, which `choose: best` would keep, "
        "and 0.2000 at the end"
    ]
    assert same_weights(kept, train(small_model(devkit), devkit, tmp_path / "alone"))


def test_the_best_is_chosen_by_a_score_or_not_at_all(devkit: Devkit, tmp_path: Path) -> None:
    def fail(model: Model) -> float:
        raise InputError("the image set 'val' has no object")

    with pytest.raises(InputError, match="'val' has no object"):
        train(small_model(devkit), devkit, tmp_path / "failing", BEST, score=fail)
    with pytest.raises(InputError, match="choose: best: expected `last` where no validation images"):
        train(small_model(devkit), devkit, tmp_path / "without", BEST)
    with pytest.raises(ValueError, match="choose: best: expected `devices: 1`, got 2"):
        ChoosingConfig(epochs=1, devices=2, choose="best")


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.15), (2, 0.0), (2, 0.5), (3, 0.15), (3, 0.9), (4, 0.25)])
def test_the_shortest_trainings_have_a_rate_of_the_order_asked_for(steps: int, warmup: float) -> None:
    network, config = nn.Conv2d(3, 4, 1), TrainingConfig(epochs=1, warmup=warmup)
    optimizer = new_optimizer(network.parameters(), config)
    schedule = new_schedule(optimizer, steps, config)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert config.learning_rate / 10 <= max(rates) <= config.learning_rate * 1.001


def course(schedule: str, steps: int) -> list[tuple[float, float]]:
    """Learning rate and Adam's first beta in each step."""
    network = nn.Conv2d(3, 4, 1)
    config = TrainingConfig(epochs=1, learning_rate=0.1, schedule=schedule)
    optimizer = new_optimizer(network.parameters(), config)
    scheduler = new_schedule(optimizer, steps, config)
    found = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["betas"][0]))
        optimizer.step()
        scheduler.step()
    return found


def test_one_cycle_rises_and_falls_in_lines_and_momentum_against_it() -> None:
    """Of 101 steps, whose 100 intervals are cut at 45 % of 101, less one: the peak lies between steps 44 and 45."""
    steps = course("one_cycle", 101)
    rates, momenta = (list(column) for column in zip(*steps, strict=True))
    peak = 0.45 * 101 - 1
    low, high = 0.1 / 25, 0.1
    expected = {
        0: low,
        22: low + (high - low) * 22 / peak,
        67: high - (high - low) * (67 - peak) / peak,
        95: low + (low / 1e4 - low) * (95 - 2 * peak) / (100 - 2 * peak),
        100: low / 1e4,
    }
    assert [rates[step] for step in expected] == pytest.approx(list(expected.values()))
    assert max(rates) == pytest.approx(high, rel=0.02)
    assert rates.index(max(rates)) == 44
    assert [momenta[0], momenta[100]] == [0.95, 0.95]
    assert momenta[22] == pytest.approx(0.95 - 0.1 * 22 / peak)
    assert min(momenta) == pytest.approx(0.85, abs=0.002)


def test_a_constant_rate_stays_the_highest_after_the_warm_up_of_the_cosine() -> None:
    constant, cosine = course("constant", 101), course("cosine", 101)
    assert constant[:15] == cosine[:15]
    assert constant[0][0] == pytest.approx(0.1 / 25)
    assert [rate for rate, _ in constant[15:]] == pytest.approx([0.1] * 86)
    assert cosine[100][0] == pytest.approx(0.1 / 25e4)
    assert {momentum for _, momentum in constant + cosine} == {0.9}


def test_one_cycle_takes_no_warm_up_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"warmup: expected none beside `schedule: one_cycle`, got 0\.3"):
        TrainingConfig(epochs=1, schedule="one_cycle", warmup=0.3)


def test_biases_and_scales_decay_where_all_do(devkit: Devkit) -> None:
    network = small_model(devkit).network
    weights = {name for name, parameter in network.named_parameters() if parameter.ndim == 4}
    others = dict(network.named_parameters()).keys() - weights
    names = {parameter: name for name, parameter in network.named_parameters()}
    for decayed, expected in (("weights", weights), ("all", weights | others)):
        optimizer = new_optimizer(network.parameters(), TrainingConfig(epochs=1, decayed=decayed))
        groups = [({names[p] for p in group["params"]}, group["weight_decay"]) for group in optimizer.param_groups]
        assert set.union(*(found for found, decay in groups if decay == 5e-3)) == expected
        assert set.union(set(), *(found for found, decay in groups if decay == 0)) == (weights | others) - expected


def test_the_optimizer_steps_to_the_bits_of_adamw_tensor_by_tensor(devkit: Devkit) -> None:
    network = small_model(devkit).network
    same = copy.deepcopy(network)
    optimizer = new_optimizer(network.parameters(), SHORT)
    plain = new_optimizer(same.parameters(), SHORT)
    for group in plain.param_groups:
        group["foreach"] = False
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for one, other in zip(network.parameters(), same.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        optimizer.step()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))


def test_mixtures_under_one_cycle_go_on_after_a_kill(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    mixed = Augmentation(mixup=0.5)
    config = TrainingConfig(epochs=2, batch_size=4, schedule="one_cycle", decayed="all", augmentation=mixed)

    def kill(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KilledError

    whole = train(small_model(devkit), devkit, tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(small_model(devkit), devkit, tmp_path / "killed", config, progress=kill)
    assert same_weights(train(small_model(devkit), devkit, tmp_path / "killed", config), whole)


def test_one_step_changes_the_weights(devkit: Devkit, tmp_path: Path) -> None:
    untrained = small_model(devkit)
    trained = train(untrained, devkit, tmp_path, TrainingConfig(epochs=1, batch_size=12))
    name = "layers.0.convolution.weight"
    change = trained.network.get_parameter(name) - untrained.network.get_parameter(name)
    assert float(change.detach().abs().max()) > 1e-3


def test_a_checkpoint_half_written_is_not_gone_on_from(devkit: Devkit, tmp_path: Path) -> None:
    (tmp_path / "last.unfinished").write_bytes(b"half of a checkpoint")
    steps: list[int] = []
    train(small_model(devkit), devkit, tmp_path, progress=lambda what, done, total: steps.append(done))
    assert steps == list(range(1, 13))


def test_the_seed_decides_the_weights(devkit: Devkit, tmp_path: Path) -> None:
    first = train(small_model(devkit), devkit, tmp_path / "first")
    torch.manual_seed(123)  # what the program drew before must not matter
    assert same_weights(train(small_model(devkit), devkit, tmp_path / "second"), first)
    assert not same_weights(train(small_model(devkit), devkit, tmp_path / "other", seed=1), first)


def test_a_network_learns_the_images_it_sees(devkit: Devkit, tmp_path: Path) -> None:
    config = TrainingConfig(
        epochs=80, batch_size=4, augmentation=Augmentation(flip_horizontal=0, scale=0, translate=0, hue=0)
    )
    model = train(small_model(devkit), devkit, tmp_path, config)
    found = predict_image_set(model.network, model.architecture, devkit, "train")
    assert evaluate(devkit.image_set("train"), found).map > 0.9
    losses = [float(line.split(",")[1]) for line in (tmp_path / "training.csv").read_text().splitlines()[1:]]
    assert len(losses) == 80
    assert losses[-1] < losses[0] / 2


def test_masked_weights_stay_zero_and_the_model_given_stays_as_it_was(devkit: Devkit, tmp_path: Path) -> None:
    model = small_model(devkit)
    name = "layers.2.convolution.weight"
    mask = torch.rand(model.network.state_dict()[name].shape, generator=torch.Generator().manual_seed(0)) > 0.5
    masked = model.with_network(model.network, Form.MASKED, {name: mask})
    before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    trained = train(masked, devkit, tmp_path)
    weight = trained.network.state_dict()[name]
    assert not weight[~mask].any()
    assert not torch.equal(weight[mask], before[name][mask])
    assert trained.form is Form.MASKED
    assert torch.equal(trained.masks[name], mask)
    assert not trained.network.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.network.state_dict().items())


class Watching(Objective):
    """Sees every step, keeps a bias at one, and gives a loss, which is not finite at one call."""

    def __init__(self, not_finite_at: int | None = None) -> None:
        super().__init__()
        self.not_finite_at = not_finite_at
        self.seen: list[tuple[int, ...]] = []

    def terms(self, step: TrainingStep) -> Terms:
        self.seen.append((*step.images.shape, *step.maps[0].shape))
        return {"watched": step.maps[0].square().mean() * (float("nan") if len(self.seen) == self.not_finite_at else 1)}

    def after_step(self, step: TrainingStep) -> None:
        step.network.get_parameter("layers.0.norm.bias").data.fill_(1.0)


def test_an_objective_sees_every_step(devkit: Devkit, tmp_path: Path) -> None:
    watching = Watching()
    trained = train(small_model(devkit), devkit, tmp_path, objectives=[watching])
    assert watching.seen == [(4, 3, 96, 96, 4, 3 * (5 + len(devkit.classes)), 3, 3)] * 12
    assert trained.network.get_parameter("layers.0.norm.bias").tolist() == pytest.approx([1.0, 1.0])


def test_a_loss_that_is_not_finite_stops_the_training_with_its_place(devkit: Devkit, tmp_path: Path) -> None:
    message = r"not finite in epoch 2, step 2 \(box .*, watched nan, learning rate .*a step before"
    with pytest.raises(StageError, match=message):
        train(small_model(devkit), devkit, tmp_path, objectives=[Watching(not_finite_at=5)])


def test_ctrl_c_arrives_as_keyboard_interrupt_and_works_again_afterwards(
    devkit: Devkit, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    as_found = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, as_found))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(
            small_model(devkit),
            devkit,
            tmp_path,
            progress=lambda what, done, total: os.kill(os.getpid(), signal.SIGINT) if done == 2 else None,
        )
    assert signal.getsignal(signal.SIGINT) is before


def test_nothing_is_written_outside_of_scratch(
    devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    train(small_model(devkit), devkit, tmp_path / "scratch")
    assert not list(elsewhere.iterdir())
    assert capfd.readouterr() == ("", "")
    assert not torch.are_deterministic_algorithms_enabled()


def test_two_processes_train_one_network(devkit: Devkit, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=3, devices=2)
    steps: list[int] = []
    model = small_model(devkit)
    trained = train(model, devkit, tmp_path, config, progress=lambda what, done, total: steps.append(done))
    assert steps == [1, 2, 3, 4]  # twelve images an epoch, six a step
    assert len((tmp_path / "training.csv").read_text().splitlines()) == 3
    assert not same_weights(trained, model)
