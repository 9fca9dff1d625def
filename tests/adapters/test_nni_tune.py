"""NNI's real tuners, in process: values of the right type and range, the same again for the same seed."""

import logging
import math
import random
from logging.handlers import BufferingHandler
from typing import Any

import numpy as np
import pytest

from detpress.contract.registry import load_assessor, load_tuner
from detpress.contract.tuner import Distribution, Proposals
from detpress.errors import InputError

LOG = logging.getLogger("tests.nni_tune")
LOG.propagate = False
SPACE = {
    "chain[0].a": Distribution("uniform", (0.3, 0.9)),
    "chain[0].b": Distribution("loguniform", (1e-4, 1e-2)),
    "chain[0].c": Distribution("quniform", (2, 10, 2)),
    "chain[0].d": Distribution("quniform", (0.1, 0.5, 0.1)),
    "chain[0].e": Distribution("randint", (1, 5)),
    "chain[0].f": Distribution("choice", (64, 8, 16)),
}
TUNERS = {
    "nni.tpe": {"startup": 5},
    "nni.random": {},
    "nni.grid": {},
    "nni.evolution": {"population": 4},
    "nni.gp": {"startup": 5, "candidates": 200, "starts": 3},
    "nni.anneal": {},
    "nni.hyperband": {"budget": "chain[1].epochs", "most": 4, "eta": 2},
}


def started(name: str, seed: int = 0, space: dict[str, Distribution] = SPACE) -> Proposals:
    tuner = load_tuner(name)
    config = tuner.Config(**TUNERS[name])
    return tuner.start(tuner.space(space, config), config, seed, LOG)


def score(values: dict[str, Any]) -> float:
    """Largest, 1, at a = 0.6, b = 0.001 and f = 16."""
    return math.exp(-((values["chain[0].a"] - 0.6) ** 2) - math.log10(values["chain[0].b"] / 1e-3) ** 2) * (
        1.0 if values["chain[0].f"] == 16 else 0.5
    )


def searched(proposals: Proposals, trials: int) -> list[dict[str, Any]]:
    made = []
    while len(made) < trials and (values := proposals.ask()) is not None:
        proposals.tell(values, score(values))
        made.append(values)
    return made


@pytest.mark.parametrize("name", TUNERS)
def test_values_are_plain_numbers_of_the_space(name: str) -> None:
    trials = searched(started(name), 8)
    assert len(trials) == 8
    for values in trials:
        assert set(values) - {"chain[1].epochs"} == set(SPACE)
        for key, of in SPACE.items():
            assert type(values[key]) is (int if of.whole or of.kind == "choice" else float), key
            if of.kind == "choice":
                assert values[key] in of.arguments
            else:
                assert of.arguments[0] <= values[key] <= of.arguments[1]
        assert values["chain[0].c"] % 2 == 0
        assert values["chain[0].d"] * 10 == pytest.approx(round(values["chain[0].d"] * 10))
        assert values["chain[0].e"] < 5


@pytest.mark.parametrize("name", TUNERS)
def test_the_same_seed_and_scores_give_the_same_values_and_the_global_generators_stay_as_they_were(name: str) -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    one = searched(started(name), 8)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.random()
    np.random.rand()
    assert searched(started(name), 8) == one
    if name != "nni.grid":
        assert searched(started(name, seed=1), 8) != one


@pytest.mark.parametrize("name", ["nni.tpe", "nni.evolution", "nni.anneal"])
def test_what_learns_from_trials_finds_better_ones_than_it_began_with(name: str) -> None:
    scores = [score(values) for values in searched(started(name), 24)]
    assert sum(scores[-6:]) > sum(scores[:5]) * 6 / 5


def test_a_grid_tries_every_combination_once_and_ends() -> None:
    space = {"a": Distribution("choice", (1, 2, 3)), "b": Distribution("randint", (0, 2))}
    proposals = started("nni.grid", space=space)
    tried = []
    while (values := proposals.ask()) is not None:
        proposals.tell(values, 0.0)
        tried.append((values["a"], values["b"]))
    assert sorted(tried) == [(a, b) for a in (1, 2, 3) for b in (0, 1)]


def test_regularized_evolution_mutates_one_number_of_the_best_of_the_living() -> None:
    """A tournament as large as the population, so that its best one is nearly always the parent."""
    space = {key: of for key, of in SPACE.items() if of.kind in ("quniform", "randint", "choice")}
    tuner = load_tuner("nni.regularized_evolution")
    config = tuner.Config(population=4, tournament=40)

    def quality(values: dict[str, Any]) -> float:
        return -abs(values["chain[0].e"] - 3) - abs(values["chain[0].f"] - 16)

    def made(seed: int) -> list[dict[str, Any]]:
        proposals = tuner.start(tuner.space(space, config), config, seed, LOG)
        trials = []
        for _ in range(12):
            values = proposals.ask()
            assert values is not None
            proposals.tell(values, quality(values))
            trials.append(values)
        return trials

    trials = made(0)
    assert made(0) == trials != made(1)
    for i, values in enumerate(trials):
        assert set(values) == set(space)
        if i >= 4:
            best = max(map(quality, trials[i - 4 : i]))
            parents = [parent for parent in trials[i - 4 : i] if quality(parent) == best]
            assert any(sum(parent[key] != values[key] for key in space) <= 1 for parent in parents)


def test_regularized_evolution_chooses_among_values_of_several_types() -> None:
    tuner = load_tuner("nni.regularized_evolution")
    config = tuner.Config(population=2, tournament=2)
    space = {"a": Distribution("choice", (True, "padded", False)), "b": Distribution("choice", (4, 0.5))}
    trials = []
    proposals = tuner.start(tuner.space(space, config), config, 0, LOG)
    for _ in range(30):
        values = proposals.ask()
        assert values is not None
        proposals.tell(values, 0.0)
        trials.append(values)
    assert {values["a"] for values in trials} == {True, "padded", False}
    assert {values["b"] for values in trials} == {4, 0.5}


def test_regularized_evolution_refuses_what_has_no_steps() -> None:
    tuner = load_tuner("nni.regularized_evolution")
    with pytest.raises(InputError, match="expected choice, randint or quniform for a, not loguniform"):
        tuner.space({"a": Distribution("loguniform", (0.1, 1.0))}, tuner.Config())


def test_hyperband_promotes_the_better_trials_to_larger_budgets() -> None:
    """Largest budget 4, eta 2: brackets of 4, 3 and 3 configurations, by hand from the paper's formulas."""
    trials = searched(started("nni.hyperband"), 100)
    assert [values["chain[1].epochs"] for values in trials] == [1, 1, 1, 1, 2, 2, 4, 2, 2, 2, 4, 4, 4, 4]
    best = sorted(trials[:4], key=score)[2:]
    assert sorted(map(score, trials[4:6])) == sorted(map(score, best))


def test_hyperband_decides_its_budget_itself() -> None:
    tuner = load_tuner("nni.hyperband")
    config = tuner.Config(budget="chain[0].e", most=4)
    with pytest.raises(InputError, match=r"nni\.hyperband decides chain\[0\]\.e itself"):
        tuner.space(SPACE, config)


def test_a_gaussian_process_refuses_what_is_no_number() -> None:
    tuner = load_tuner("nni.gp")
    with pytest.raises(InputError, match=r"nni\.gp takes numbers only, and a may be 'minmax'"):
        tuner.space({"a": Distribution("choice", ("minmax", "kl"))}, tuner.Config())
    with pytest.raises(InputError, match=r"nni\.gp takes numbers only, and a may be True"):
        tuner.space({"a": Distribution("choice", (1, True, "padded"))}, tuner.Config())


def test_the_median_rule_ends_a_trial_that_stays_below_the_others() -> None:
    assessor = load_assessor("nni.medianstop")
    judge = assessor.start(3, assessor.Config(start=2), LOG)
    for trial, history in enumerate(([0.5, 0.6, 0.7], [0.5, 0.7, 0.8])):
        assert not any(judge.hopeless(trial, history[: i + 1]) for i in range(3))
        judge.end(trial, history, True)
    assert not judge.hopeless(2, [0.1])  # before `start`
    assert judge.hopeless(2, [0.1, 0.2])  # running averages of the others: 0.55 and 0.6
    assert not judge.hopeless(3, [0.1, 0.56])


def test_a_curve_that_levels_off_below_the_best_ends_its_trial() -> None:
    assessor = load_assessor("nni.curvefitting")
    judge = assessor.start(10, assessor.Config(start=6), LOG)
    good = [0.9 - 0.5 * 0.6**i for i in range(10)]
    for i in range(10):
        assert not judge.hopeless(0, good[: i + 1])
    judge.end(0, good, True)
    low = [0.4 - 0.2 * 0.6**i for i in range(10)]
    assert [judge.hopeless(1, low[: i + 1]) for i in range(5)] == [False] * 5
    assert judge.hopeless(1, low[:8])


def test_a_curve_is_judged_by_the_trials_alone_and_the_global_generators_stay_as_they_were(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "curvefitting_Assessor")
    assessor = load_assessor("nni.curvefitting")
    log = logging.Logger("tests.nni_tune.curvefitting")
    log.addHandler(said := BufferingHandler(1000))

    def judged(seed: int) -> list[str]:
        said.buffer.clear()
        np.random.seed(seed)
        before = np.random.get_state()[1].tolist()
        judge = assessor.start(10, assessor.Config(start=6), log)
        judge.hopeless(0, [0.9 - 0.5 * 0.6**i for i in range(10)])
        judge.end(0, [], True)
        for steps in range(6 + seed % 2, 9):
            judge.hopeless(1, [0.6 - 0.3 * 0.6**i for i in range(steps)])
        assert np.random.get_state()[1].tolist() == before
        return [message for record in said.buffer if "Predict value" in (message := record.getMessage())]

    first, again, one_less = judged(0), judged(2), judged(1)
    assert len(first) == 3
    assert again == first
    assert one_less == first[1:]
