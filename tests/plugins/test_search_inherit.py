"""`search.inherit` with NNI's real evolution, inside of a network of a few thousand parameters."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_training import KilledError, same_bits

from detpress.detector.architecture import Architecture, Shortcut
from detpress.detector.form import Form
from detpress.detector.layer_list import LayerList
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.measure.section import Measure
from detpress.plugins.search_inherit import Inherit, InheritOptions
from detpress.pruning.budgets import size_of
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training.config import TrainingConfig
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits

SMALL: dict[str, Any] = {
    "widths": [0.5, 1.0],
    "depths": [0.5, 1.0],
    "trials": 3,
    "population": 2,
    "tournament": 2,
    "statistics_images": 2,
    "supernet": TrainingConfig(epochs=1, batch_size=2),
}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 4, "val": 2})
    return open_devkit(root)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    """Five stages of one residual block or two, and one head."""
    net = LayerList(1.0)
    net.convolution(4, 3)
    for blocks in (1, 1, 1, 2, 2):
        net.convolution(8, 3, stride=2)
        for _ in range(blocks):
            before = len(net.layers) - 1
            net.convolution(4, 1)
            net.convolution(8, 3)
            net.add(Shortcut(before))
    net.convolution(8, 3)
    net.head([(8.0, 8.0)], len(devkit.classes))
    return new_model(Architecture("small", tuple(net.layers), devkit.classes, 32), seed=0)


class Counting(StageWorkbench):
    """Counts trainings and scores; ends, as a kill does, before the score of this number."""

    trainings = scores = 0
    ends_at = 0

    def fit(self, *arguments: Any, **options: Any) -> Model:
        self.trainings += 1
        return super().fit(*arguments, **options)

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        self.scores += 1
        if self.scores == self.ends_at:
            raise KilledError
        return super().evaluate(*arguments, **options)


def bench(scratch: Path, devkit: Devkit, model: Model) -> Counting:
    scratch.mkdir(exist_ok=True)
    log, data = logging.getLogger("tests.search_inherit"), Data(root=str(devkit.root))
    return Counting(
        0,
        scratch,
        log,
        lambda *_: None,
        devkit,
        data,
        Measure(),
        architecture=model.architecture,
        files=scratch / "files",
    )


@pytest.fixture(scope="module")
def budget(model: Model) -> int:
    return size_of(model.architecture).macs // 2


@pytest.fixture(scope="module")
def undisturbed(model: Model, devkit: Devkit, budget: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    scratch = tmp_path_factory.mktemp("undisturbed")
    made = bench(scratch, devkit, model)
    found = Inherit().apply(model, InheritOptions(**SMALL, max_macs=budget), made)
    return found, json.loads((scratch / "files/trials.json").read_text()), made


def test_members_within_the_budget_are_scored_and_the_best_one_is_the_result(
    undisturbed: tuple[Any, ...], model: Model, budget: int
) -> None:
    found, trials, made = undisturbed
    scored = [trial for trial in trials if trial["map"] is not None]
    assert len(scored) == SMALL["trials"]
    assert made.trainings == 1
    assert all(trial["macs"] <= budget for trial in scored)
    assert len(scored) < len(trials)
    assert all(trial["macs"] > budget and trial["why"] == "exceeds a budget" for trial in trials if trial not in scored)
    winner = max(scored, key=lambda trial: trial["map"])
    size = size_of(found.architecture)
    assert (size.parameters, size.macs) == (winner["parameters"], winner["macs"])
    assert found.form is Form.DENSE
    assert found.architecture.classes == model.architecture.classes
    assert (made.files / "trials.html").stat().st_size > 10_000


def test_a_search_that_was_killed_goes_on_without_training_again_and_ends_the_same(
    undisturbed: tuple[Any, ...], model: Model, devkit: Devkit, budget: int, tmp_path: Path
) -> None:
    first, trials, made = undisturbed
    config = InheritOptions(**SMALL, max_macs=budget)
    killed = bench(tmp_path, devkit, model)
    killed.ends_at = 2
    with pytest.raises(KilledError):
        Inherit().apply(model, config, killed)
    again = bench(tmp_path, devkit, model)
    assert same_bits(Inherit().apply(model, config, again), first)
    assert (again.trainings, again.scores) == (0, made.scores - 1)
    assert json.loads((tmp_path / "files/trials.json").read_text()) == trials


def test_what_is_inherited_is_trained(undisturbed: tuple[Any, ...], model: Model) -> None:
    found, *_ = undisturbed
    name = next(name for name, _ in found.network.named_parameters())
    weights = found.network.get_parameter(name)
    assert not any(torch.equal(filters, other) for filters in weights for other in model.network.get_parameter(name))


@pytest.mark.parametrize("option", ["max_macs", "max_parameters"])
def test_a_budget_below_the_smallest_network_is_refused_by_the_plan(model: Model, option: str) -> None:
    with pytest.raises(InputError, match=rf"{option}: 1,000 are asked for, and the smallest network has \d"):
        Inherit().plan(model, InheritOptions(**SMALL, **{option: 1000}))
    plan = Inherit().plan(model, InheritOptions(**SMALL))
    assert size_of(plan.model.architecture).macs < size_of(model.architecture).macs / 2


@pytest.mark.parametrize("options", [{"widths": [0.0]}, {"widths": [1.5]}, {"depths": [-0.1]}, {"tournament": 99}])
def test_options_that_make_no_members_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected"):
        InheritOptions(**options)
