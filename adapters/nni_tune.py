"""The bridge to NNI 3.0's tuners, its Hyperband and its assessors: driven in this process, without NNI's service.

How they are brought to propose the same values again for the same seed, on current NumPy:

- some draw from Python's and NumPy's global generators: they get states of their own, and the global ones are put back;
- some seed themselves from the clock: their generators are seeded after they are made;
- the Gaussian process hands SciPy a start in two dimensions and expects a list of one value back: SciPy's function is
  wrapped;
- annealing compares hyperopt's NumPy numbers with an empty list, which NumPy refuses: they are made Python's;
- the Gaussian process rounds to whole numbers whatever the step is, fails on `randint`, and expects choices in order:
  whatever has steps is given to it as a choice among sorted numbers;
- the assessor that fits curves draws from NumPy's global generator, too.
"""

import logging
import random
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import minimize

from detpress.adapters.engine_version import expect_version
from detpress.contract.tuner import Distribution, Space
from detpress.engine_log import engine_messages
from detpress.training.process import seeded

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nni
    from nni.algorithms.hpo.curvefitting_assessor import CurvefittingAssessor
    from nni.algorithms.hpo.evolution_tuner import EvolutionTuner
    from nni.algorithms.hpo.gp_tuner import GPTuner
    from nni.algorithms.hpo.gp_tuner import util as gp_util
    from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner
    from nni.algorithms.hpo.hyperband_advisor import Bracket
    from nni.algorithms.hpo.medianstop_assessor import MedianstopAssessor
    from nni.algorithms.hpo.random_tuner import RandomTuner
    from nni.algorithms.hpo.regularized_evolution_tuner import RegularizedEvolutionTuner
    from nni.algorithms.hpo.tpe_tuner import TpeTuner
    from nni.assessor import AssessResult


def _minimize(function: Any, start: Any, **options: Any) -> Any:
    found = minimize(lambda x: np.asarray(function(x)).item(), np.ravel(start), **options)
    found.fun = np.atleast_1d(found.fun)
    return found


expect_version("nni", "3.0", "a function of its Gaussian process is replaced")
gp_util.minimize = _minimize

BUDGET = "TRIAL_BUDGET"  # NNI's key of what Hyperband grants a trial


class TunerProposals:
    """One of NNI's tuners behind `detpress.contract.tuner.Proposals`."""

    def __init__(self, tuner: Any, space: Space, seed: int, log: logging.Logger) -> None:
        self.tuner = tuner
        self.space = space
        self.log = log
        self.trials = 0
        self.raw: dict[str, Any] = {}
        self.states = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """NNI's messages go to the log, and its draws come from states of this tuner's own."""
        outside = random.getstate(), np.random.get_state()
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])
        try:
            with engine_messages(self.log, "nni"):
                yield
        finally:
            self.states = random.getstate(), np.random.get_state()
            random.setstate(outside[0])
            np.random.set_state(outside[1])

    def ask(self) -> dict[str, Any] | None:
        with self.at_work():
            try:
                self.raw = self.tuner.generate_parameters(self.trials)
            except nni.NoMoreTrialError:
                return None
        return _plain(self.raw, self.space)

    def tell(self, values: dict[str, Any], score: float) -> None:
        with self.at_work():
            self.tuner.receive_trial_result(self.trials, self.raw, score)
            self.tuner.trial_end(self.trials, True)
        self.trials += 1


def tpe(space: Space, startup: int, candidates: int, seed: int, log: logging.Logger) -> TunerProposals:
    with engine_messages(log, "nni"):
        tuner = TpeTuner("maximize", seed, {"n_startup_jobs": startup, "n_ei_candidates": candidates})
        tuner.update_search_space(_search_space(space))
    return TunerProposals(tuner, space, seed, log)


def random_draws(space: Space, seed: int, log: logging.Logger) -> TunerProposals:
    with engine_messages(log, "nni"):
        tuner = RandomTuner(seed)
        tuner.update_search_space(_search_space(space))
    return TunerProposals(tuner, space, seed, log)


def grid(space: Space, seed: int, log: logging.Logger) -> TunerProposals:
    with engine_messages(log, "nni"):
        tuner = GridSearchTuner()
        tuner.update_search_space(_search_space(space))
    return TunerProposals(tuner, space, seed, log)


def evolution(space: Space, population: int, seed: int, log: logging.Logger) -> TunerProposals:
    with engine_messages(log, "nni"):
        tuner = EvolutionTuner("maximize", population)
        tuner.update_search_space(_search_space(space))
        tuner.random_state.seed(seed)
        tuner.population = []  # it has drawn one from a generator that nobody seeded
        for _ in range(population):
            tuner._random_generate_individual()
    return TunerProposals(tuner, space, seed, log)


class _RegularizedEvolution(RegularizedEvolutionTuner):  # type: ignore[misc]
    """NNI's, which is made for the layers of networks, over numbers that have steps."""

    def update_search_space(self, search_space: dict[str, Any]) -> None:
        layers = {key: {"_type": "layer_choice", "_value": of["_value"]} for key, of in search_space.items()}
        super().update_search_space(layers)

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> dict[str, Any]:
        return {key: chosen["_value"] for key, chosen in super().generate_parameters(parameter_id, **kwargs).items()}


def regularized_evolution(
    space: Space, population: int, tournament: int, seed: int, log: logging.Logger
) -> TunerProposals:
    proposals = TunerProposals(_RegularizedEvolution("maximize", population, tournament), space, seed, log)
    with proposals.at_work():  # it draws its first population now
        proposals.tuner.update_search_space(_search_space({key: _as_choice(of) for key, of in space.items()}))
    return proposals


def gaussian_process(space: Space, options: dict[str, Any], seed: int, log: logging.Logger) -> TunerProposals:
    with engine_messages(log, "nni"):
        tuner = GPTuner(
            "maximize",
            options["utility"],
            cold_start_num=options["startup"],
            selection_num_warm_up=options["candidates"],
            selection_num_starting_points=options["starts"],
        )
        tuner._random_state.seed(seed)
        tuner.update_search_space(_search_space({key: _in_order(_as_choice(of)) for key, of in space.items()}))
    return TunerProposals(tuner, space, seed, log)


@cache
def _hyperopt() -> Any:
    """NNI's module around hyperopt, which an extra brings."""
    from nni.algorithms.hpo import hyperopt_tuner

    read_values = hyperopt_tuner.json2vals

    def read_plain_values(given: Any, values: Any, found: dict[str, Any], name: str = "root") -> None:
        read_values(given, values, found, name)
        found.update({key: value.item() for key, value in found.items() if isinstance(value, np.generic)})

    hyperopt_tuner.json2vals = read_plain_values
    return hyperopt_tuner


def anneal(space: Space, seed: int, log: logging.Logger) -> TunerProposals:
    with engine_messages(log, "nni"):
        tuner = _hyperopt().HyperoptTuner("anneal", "maximize")
        tuner.update_search_space(_search_space(space))
        tuner.rval.rstate.seed(seed)
    return TunerProposals(tuner, space, seed, log)


class HyperbandProposals:
    """NNI's brackets of successive halving, run one after the other until all are done."""

    def __init__(self, space: Space, budget: str, most: int, eta: int, seed: int, log: logging.Logger) -> None:
        self._budget = budget
        self._space = {key: of for key, of in space.items() if key != budget}
        self._log = log
        self._steps = self._rounds(most, eta, np.random.RandomState(seed))
        self._score: float | None = None

    def _rounds(self, most: int, eta: int, state: np.random.RandomState) -> Generator[dict[str, Any], float, None]:
        rungs = int(np.floor(np.log(most) / np.log(eta) + 1e-6))
        for s in range(rungs, -1, -1):
            bracket = Bracket(f"0-{s}", s, rungs, eta, most, "maximize")
            count, budget = bracket.get_n_r()
            trials = bracket.get_hyperparameter_configurations(count, budget, _search_space(self._space), state)
            rung = 0
            while trials:
                promoted = None
                for name, raw in trials:
                    score = yield _plain(raw, self._space) | {self._budget: int(raw[BUDGET])}
                    bracket.set_config_perf(rung, name, 0, score)
                    promoted = bracket.inform_trial_end(rung)
                trials, rung = promoted, rung + 1

    def ask(self) -> dict[str, Any] | None:
        with engine_messages(self._log, "nni"):
            try:
                return next(self._steps) if self._score is None else self._steps.send(self._score)
            except StopIteration:
                return None

    def tell(self, values: dict[str, Any], score: float) -> None:
        self._score = score


class AssessorJudge:
    """One of NNI's assessors behind `detpress.contract.tuner.Judge`.

    Each judgement draws the same numbers, so that it depends on the trials alone and not on what was asked before.
    """

    def __init__(self, assessor: MedianstopAssessor | CurvefittingAssessor, log: logging.Logger) -> None:
        self.assessor = assessor
        self.log = log

    def hopeless(self, trial: int, history: list[float]) -> bool:
        with seeded(0), engine_messages(self.log, "nni", "medianstop_Assessor", "curvefitting_Assessor"):
            return self.assessor.assess_trial(str(trial), list(history)) is AssessResult.Bad

    def end(self, trial: int, history: list[float], finished: bool) -> None:
        with engine_messages(self.log, "nni", "medianstop_Assessor", "curvefitting_Assessor"):
            self.assessor.trial_end(str(trial), finished)


def median_stop(start: int, log: logging.Logger) -> AssessorJudge:
    return AssessorJudge(MedianstopAssessor("maximize", start), log)


def curve_fitting(stages: int, start: int, threshold: float, log: logging.Logger) -> AssessorJudge:
    return AssessorJudge(CurvefittingAssessor(stages, start, threshold), log)


def _search_space(space: Space) -> dict[str, Any]:
    """The space as NNI has it."""
    return {key: {"_type": of.kind, "_value": list(of.arguments)} for key, of in space.items()}


def _in_order(of: Distribution) -> Distribution:
    """A choice with its values, which are numbers, in rising order."""
    return Distribution("choice", tuple(sorted(of.arguments))) if of.kind == "choice" else of


def _as_choice(of: Distribution) -> Distribution:
    """What has steps, as a choice among its values."""
    if of.kind == "randint":
        return Distribution("choice", tuple(range(*of.arguments)))
    if of.kind == "quniform":
        low, high, q = of.arguments
        steps = [min(max(round(i * q, 12), low), high) for i in range(round(low / q), round(high / q) + 1)]
        return Distribution("choice", tuple(steps))
    return of


def _plain(raw: dict[str, Any], space: Space) -> dict[str, Any]:
    """NNI's values as Python's own, of the type that the distribution says, and within its bounds to the last bit."""
    values: dict[str, Any] = {}
    for key, of in space.items():
        value = raw[key]
        if of.kind == "choice":
            values[key] = next(argument for argument in of.arguments if argument == value)
        else:
            inside = min(max(value, of.arguments[0]), of.arguments[1])
            values[key] = round(float(inside)) if of.whole else float(inside)
    return values
