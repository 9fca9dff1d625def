"""`nni.nas` with NNI's real strategies, on networks of some thousand parameters and a handful of images."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from detpress.detector.architecture import Architecture, Convolution, build_architecture
from detpress.detector.channels import stored_parameters
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.errors import StageError
from detpress.measure.section import Measure
from detpress.measure.size import macs
from detpress.plugins.nni_search import NAS
from detpress.plugins.nni_search_space import NASOptions, YoloSpace, backbone_of
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training.config import TrainingConfig
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits

SHORT = TrainingConfig(epochs=1, batch_size=2)
SMALL: dict[str, Any] = {
    "widths": [0.0625],
    "blocks": [0, 1],
    "kernels": [3],
    "trials": 3,
    "population": 2,
    "tournament": 2,
    "mutation": 0.5,
    "trial": SHORT,
    "final": SHORT,
}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 4, "val": 4, "test": 2})
    return open_devkit(root)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3", devkit.classes, 64, 0.0625), seed=0)


def bench(scratch: Path, devkit: Devkit, architecture: Architecture) -> StageWorkbench:
    scratch.mkdir(exist_ok=True)
    log = logging.getLogger("tests.nni_search")
    data, measure = Data(root=str(devkit.root)), Measure()
    return StageWorkbench(
        0, scratch, log, lambda *_: None, devkit, data, measure, architecture=architecture, files=scratch / "files"
    )


def searched(strategy: str, model: Model, devkit: Devkit, scratch: Path, **options: Any) -> tuple[Model, list[Any]]:
    config = NASOptions(strategy=strategy, **(SMALL | options))
    found = NAS().apply(model, config, bench(scratch, devkit, model.architecture))
    return found, json.loads((scratch / "files/trials.json").read_text())


@pytest.fixture
def larger_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that tell networks apart: after an epoch on four images nearly all have mAP 0."""

    def evaluate(bench: StageWorkbench, scored: Model, split: str = "val") -> float:
        return sum(parameter.numel() for parameter in scored.network.parameters()) / 1e7

    monkeypatch.setattr(StageWorkbench, "evaluate", evaluate)


@pytest.mark.usefixtures("larger_is_better")
@pytest.mark.parametrize("strategy", ["random", "grid", "evolution", "tpe"])
def test_a_strategy_makes_its_trials_and_the_best_of_them_is_trained_anew(
    strategy: str, model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    limit = 117_000
    found, trials = searched(strategy, model, devkit, tmp_path / "a", max_parameters=limit)
    trained = [trial for trial in trials if trial["map"] is not None]
    assert len(trained) == SMALL["trials"]
    assert all(trial["parameters"] <= limit for trial in trained)
    assert all(
        trial["parameters"] > limit and trial["why"] == "exceeds a budget" for trial in trials if trial not in trained
    )
    assert strategy == "grid" or len(trained) < len(trials), "some are over the limit; a grid begins with the smallest"
    winner = max(trained, key=lambda trial: trial["map"])
    assert (stored_parameters(found.architecture), macs(found.architecture)) == (winner["parameters"], winner["macs"])
    assert found.form is Form.DENSE
    assert found.architecture.classes == model.architecture.classes
    assert (tmp_path / "a/files/trials.html").stat().st_size > 10_000


@pytest.mark.parametrize("strategy", ["darts", "gumbel_darts", "proxyless"])
def test_a_supernet_is_trained_and_what_it_chose_is_trained_anew(
    strategy: str, model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    found, trials = searched(strategy, model, devkit, tmp_path / "a")
    assert len(trials) == 1
    assert stored_parameters(found.architecture) == trials[0]["parameters"]
    assert not any("Choice" in type(module).__name__ for module in found.network.modules())


@pytest.mark.usefixtures("larger_is_better")
def test_random_one_shot_scores_drawn_networks_with_the_shared_weights(
    model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    limit = 200_000
    found, trials = searched("random_one_shot", model, devkit, tmp_path / "a", max_parameters=limit)
    assert len(trials) == SMALL["trials"]
    assert all(trial["parameters"] <= limit for trial in trials)
    winner = max(trials, key=lambda trial: trial["map"])
    assert (stored_parameters(found.architecture), macs(found.architecture)) == (winner["parameters"], winner["macs"])


@pytest.mark.usefixtures("larger_is_better")
@pytest.mark.parametrize("strategy", ["enas", "policy_rl"])
def test_what_learns_by_reinforcement_finds_a_network(
    strategy: str, model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    found, trials = searched(strategy, model, devkit, tmp_path / "a")
    assert len(trials) == (1 if strategy == "enas" else SMALL["trials"]), "enas gives what its supernet chose"
    winner = max(trials, key=lambda trial: trial["map"])
    assert (stored_parameters(found.architecture), macs(found.architecture)) == (winner["parameters"], winner["macs"])


@pytest.mark.usefixtures("larger_is_better")
def test_a_network_of_nnis_hub_is_found(model: Model, devkit: Devkit, tmp_path: Path) -> None:
    options = {name: value for name, value in SMALL.items() if name != "kernels"}
    config = NASOptions(strategy="random", space="mobilenetv3", **(options | {"blocks": [1, 2], "ratios": [1.0, 2.0]}))
    found = NAS().apply(model, config, bench(tmp_path, devkit, model.architecture))
    trials = json.loads((tmp_path / "files/trials.json").read_text())
    assert {trial["choices"]["s3_depth"] for trial in trials} <= {1, 2}
    winner = max(trials, key=lambda trial: trial["map"])
    assert (stored_parameters(found.architecture), macs(found.architecture)) == (winner["parameters"], winner["macs"])
    convolutions = [layer for layer in found.architecture.layers if isinstance(layer, Convolution)]
    assert {layer.activation for layer in convolutions} == {"relu", "linear", "leaky"}


def test_a_budget_on_latency_is_measured_before_a_network_is_trained(
    model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    """Within it, the figures stay with the trials; where nothing can meet it, nothing is trained."""
    _, trials = searched("random", model, devkit, tmp_path / "a", max_latency_ms={"onnxruntime": 1e4, "torch": 1e4})
    assert all(0 < trial["latency_ms"][name] < 1e4 for trial in trials for name in ("onnxruntime", "torch"))
    plain = bench(tmp_path / "b", devkit, model.architecture)
    counting = Interrupted(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
    config = NASOptions(
        **(SMALL | {"strategy": "grid", "kinds": ["fire"], "trials": 1, "blocks": [0]}), max_latency_ms={"torch": 1e-6}
    )
    with pytest.raises(StageError, match="none of 1 networks was within the budgets"):
        NAS().apply(model, config, counting)
    assert counting.trainings == 0


def test_a_latency_is_measured_once_for_a_network_also_across_kills(
    model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    _, first = searched("random", model, devkit, tmp_path, max_latency_ms={"torch": 1e4})
    _, again = searched("random", model, devkit, tmp_path, max_latency_ms={"torch": 1e4})
    assert first == again


class Interrupted(StageWorkbench):
    """Ends, as a kill does, at its third training; counts them all."""

    trainings = 0
    ends_at = 0

    def fit(self, *arguments: Any, **options: Any) -> Model:
        self.trainings += 1
        if self.trainings == self.ends_at:
            raise KeyboardInterrupt
        return super().fit(*arguments, **options)


def test_an_interrupted_search_goes_on_without_training_again_and_ends_the_same(
    model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    config = NASOptions(strategy="evolution", **SMALL)

    def run(scratch: Path, ends_at: int = 0) -> tuple[Model, int]:
        plain = bench(scratch, devkit, model.architecture)
        made = Interrupted(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
        made.ends_at = ends_at
        return NAS().apply(model, config, made), made.trainings

    undisturbed, trainings = run(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "two", ends_at=3)
    resumed, others = run(tmp_path / "two")
    assert others == trainings - 2
    assert resumed.architecture == undisturbed.architecture
    ours, theirs = resumed.network.state_dict(), undisturbed.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_budget_that_nothing_meets_is_an_error(model: Model, devkit: Devkit, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="none of 32 networks was within the budgets"):
        searched("grid", model, devkit, tmp_path / "a", max_macs=1, kinds=["fire"], trials=2)


def test_nothing_is_written_outside_of_the_stage(
    model: Model, devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    searched("random", model, devkit, tmp_path / "a", trials=1)
    searched("random_one_shot", model, devkit, tmp_path / "b", trials=1)
    assert list((tmp_path / "home").rglob("*")) == list((tmp_path / "work").rglob("*")) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": [4]}, "expected odd `kernels`, got "),
        ({"widths": [0.0]}, "expected `widths` and `ratios` above 0"),
        ({"tournament": 9}, "expected a `tournament` of at most `population`, 6"),
        ({"strategy": "proxyless", "widths": [0.1, 0.2]}, "expected one of `widths` for proxyless"),
        ({"strategy": "darts", "max_latency_ms": {"torch": 1.0}}, "darts trains no network that could be timed"),
        ({"max_latency_ms": {"torch": 0.0}}, "expected `max_latency_ms` above 0"),
        ({"max_latency_ms": {"tensorrt": 1.0}}, "Input should be 'torch', 'torch-compile'"),
        ({"space": "mobilenetv3", "kernels": [3]}, "expected no kernels: mobilenetv3 has its own"),
        ({"space": "mobilenetv3", "blocks": [0, 1]}, "expected `blocks` of 1 or more in mobilenetv3"),
        ({"space": "mobilenetv3", "blocks": [1], "strategy": "darts"}, "for mobilenetv3, whose widths are chosen"),
        ({"strategy": "darts", "max_macs": 10}, "darts keeps no budget; expected random_one_shot or one of random"),
    ],
)
def test_options_that_make_no_search_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NASOptions(**options)


def test_a_strategy_without_tournaments_has_a_population_of_any_size() -> None:
    assert NASOptions(strategy="tpe", population=2).population == 2


def test_blocks_beyond_a_stages_number_are_left_out() -> None:
    choices = {label: values[-1] for label, values in YoloSpace(NASOptions(blocks=[1, 3])).choices.items()}
    choices |= {"stage1.blocks": 1, "stage4.blocks": 2}
    assert [len(blocks) for blocks in backbone_of(choices).blocks] == [1, 3, 3, 2, 3]


def test_the_plan_is_a_network_of_the_space(model: Model) -> None:
    plan = NAS().plan(model, NASOptions(widths=[0.03], blocks=[0]))
    assert sum(isinstance(layer, Convolution) for layer in plan.model.architecture.layers) == 6 + 23
