"""NNI's tuners and assessors, for the section `search` of a recipe. They run in this process, one trial at a time."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from detpress.contract.tuner import Assessor, Distribution, Judge, Proposals, Space, Tuner
from detpress.errors import InputError
from detpress.options import NoOptions, Options

if TYPE_CHECKING:
    import logging


class TPEOptions(Options):
    """How soon the tuner stops guessing."""

    startup: int = Field(20, ge=1, description="trials drawn at random before the estimate is used")
    candidates: int = Field(
        24, ge=1, description="values drawn from the good ones, of which the most promising is taken"
    )


class TPE(Tuner):
    """Draws values where good trials lie dense and bad ones thin, each number by itself.

    Bergstra, Bardenet, Bengio, Kegl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, by NNI's TpeTuner:
    a tree-structured Parzen estimator. Good are the best 0.25 * sqrt(n) of n trials, as in the authors' hyperopt and
    not a fixed share as in the paper; values already tried are replaced by those of a grid.
    """

    Config = TPEOptions
    engine = "nni"

    def start(self, space: Space, config: TPEOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.tpe(space, config.startup, config.candidates, seed, log)


class Random(Tuner):
    """Draws every value at random. The yardstick: what does not beat it is not worth its name.

    Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13, 2012, by NNI's RandomTuner.
    """

    Config = NoOptions
    engine = "nni"

    def start(self, space: Space, config: NoOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.random_draws(space, seed, log)


class Grid(Tuner):
    """Tries all choices; of continuous numbers first the middle, then the quarters, the eighths, and so on.

    NNI's GridSearchTuner. It has no randomness, and ends when a space without continuous numbers is exhausted.
    """

    Config = NoOptions
    engine = "nni"

    def start(self, space: Space, config: NoOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.grid(space, seed, log)


class EvolutionOptions(Options):
    """The population."""

    population: int = Field(32, ge=2, description="trials drawn at random first, and kept as parents")


class Evolution(Tuner):
    """Compares two trials at random, forgets the worse and tries the better with one number drawn anew.

    Real et al., "Large-Scale Evolution of Image Classifiers", arXiv:1703.01041, 2017, by NNI's EvolutionTuner, which
    keeps the tournament of two and mutates one number of the recipe where the paper mutates a network.
    """

    Config = EvolutionOptions
    engine = "nni"

    def start(self, space: Space, config: EvolutionOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.evolution(space, config.population, seed, log)


class RegularizedEvolutionOptions(Options):
    """The population."""

    population: int = Field(20, ge=2, description="trials drawn at random first, and kept; the oldest one dies")
    tournament: int = Field(5, ge=1, description="trials drawn from them, of which the best is mutated")


class RegularizedEvolution(Tuner):
    """Mutates one number of the best of a few living trials; each lives for as long as `population` others are made.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search", arXiv:1802.01548, 2018, by NNI's
    RegularizedEvolutionTuner, made for the layers of a network (its defaults, and the paper's, are 100 and 25); here it
    chooses among the values of numbers that have steps.
    """

    Config = RegularizedEvolutionOptions
    engine = "nni"

    def space(self, space: Space, config: RegularizedEvolutionOptions) -> Space:
        for key, of in space.items():
            if of.kind not in ("choice", "randint", "quniform"):
                raise InputError(
                    f"nni.regularized_evolution chooses among steps; expected choice, randint or quniform for {key}, "
                    f"not {of.kind}"
                )
        return space

    def start(self, space: Space, config: RegularizedEvolutionOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.regularized_evolution(space, config.population, config.tournament, seed, log)


class GPOptions(Options):
    """The Gaussian process."""

    startup: int = Field(10, ge=2, description="trials drawn at random before the process is fitted")
    utility: Literal["ei", "ucb", "poi"] = Field(
        "ei", description="expected improvement, upper confidence bound, or probability of improvement"
    )
    candidates: int = Field(10_000, ge=1, description="values drawn at random, of which the most promising is taken")
    starts: int = Field(25, ge=1, description="values drawn at random that are improved by L-BFGS-B besides")


class GP(Tuner):
    """Fits a Gaussian process to the trials and takes the values that promise most under it. Numbers only.

    Bergstra, Bardenet, Bengio, Kegl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 3, by NNI's
    GPTuner: a Matern kernel of smoothness 2.5. Logarithmic numbers are drawn on their scale but fitted as they are.
    NNI draws ten times as many candidates and starts by default, which takes it many seconds a trial.
    """

    Config = GPOptions
    engine = "nni"

    def space(self, space: Space, config: GPOptions) -> Space:
        for key, of in space.items():
            if of.kind == "qloguniform":
                raise InputError(f"nni.gp takes no qloguniform, which {key} is; expected loguniform or choice")
            for value in of.arguments:
                if not isinstance(value, int | float) or isinstance(value, bool):
                    raise InputError(f"nni.gp takes numbers only, and {key} may be {value!r}")
        return space

    def start(self, space: Space, config: GPOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.gaussian_process(space, config.model_dump(), seed, log)


class Anneal(Tuner):
    """Draws near the trials that were good, ever nearer as their number grows.

    The simulated annealing of hyperopt (Bergstra, Yamins, Cox, "Making a Science of Model Search", ICML 2013), by NNI's
    HyperoptTuner with its algorithm `anneal`. No paper describes the method; hyperopt's source is its only account.
    Needs the extra `anneal`.
    """

    Config = NoOptions
    engine = "nni"
    extra = ("hyperopt", "anneal")

    def start(self, space: Space, config: NoOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.anneal(space, seed, log)


class HyperbandOptions(Options):
    """What a trial is granted."""

    budget: str = Field(description="key of the whole number that is the budget, such as `chain[2].epochs`")
    most: int = Field(ge=2, le=10_000, description="the largest budget of a trial")
    eta: int = Field(3, ge=2, description="one of so many trials goes on, with so many times the budget")


class Hyperband(Tuner):
    """Gives many trials a small budget and the better ones among them a larger one, from brave to cautious.

    Li, Jamieson, DeSalvo, Rostamizadeh, Talwalkar, "Hyperband: A Novel Bandit-Based Approach to Hyperparameter
    Optimization", arXiv:1603.06560, 2018, by the brackets of NNI's Hyperband, one after the other. A trial that is
    promoted is trained anew with the larger budget, what comes before it in the chain is not.
    """

    Config = HyperbandOptions
    engine = "nni"

    def space(self, space: Space, config: HyperbandOptions) -> Space:
        if config.budget in space:
            raise InputError(f"nni.hyperband decides {config.budget} itself; leave it out of the space")
        return {**space, config.budget: Distribution("randint", (1, config.most + 1))}

    def start(self, space: Space, config: HyperbandOptions, seed: int, log: "logging.Logger") -> Proposals:
        from detpress.adapters import nni_tune

        return nni_tune.HyperbandProposals(space, config.budget, config.most, config.eta, seed, log)


class MedianStopOptions(Options):
    """When to begin."""

    start: int = Field(1, ge=1, description="steps of the chain that every trial may do")


class MedianStop(Assessor):
    """Ends a trial whose best objective so far is below the median of what the others had on average by then.

    Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, by NNI's MedianstopAssessor.
    """

    Config = MedianStopOptions
    engine = "nni"

    def start(self, stages: int, config: MedianStopOptions, log: "logging.Logger") -> Judge:
        from detpress.adapters import nni_tune

        return nni_tune.median_stop(config.start, log)


class CurveFittingOptions(Options):
    """When to begin, and what is too bad."""

    start: int = Field(6, ge=4, description="steps of the chain that every trial may do")
    threshold: float = Field(0.95, gt=0, le=1, description="share of the best finished trial's objective to be reached")


class CurveFitting(Assessor):
    """Ends a trial whose objective, extrapolated to the end of the chain, stays below the best finished one's.

    Domhan, Springenberg, Hutter, "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by
    Extrapolation of Learning Curves", IJCAI 2015, by NNI's CurvefittingAssessor. It takes several steps to
    extrapolate from, such as a training cut into pieces, and an objective between 0 and 1 that shall be large.
    """

    Config = CurveFittingOptions
    engine = "nni"

    def start(self, stages: int, config: CurveFittingOptions, log: "logging.Logger") -> Judge:
        from detpress.adapters import nni_tune

        return nni_tune.curve_fitting(stages, config.start, config.threshold, log)
