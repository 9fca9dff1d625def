"""What NNI 3.0 has for choosing numbers and cannot do here: listed, so that nobody looks in vain.

A recipe that names one is refused with the reason.
"""

from typing import TYPE_CHECKING, NoReturn

from detpress.contract.tuner import Space, Tuner
from detpress.options import NoOptions

if TYPE_CHECKING:
    import logging


class Unavailable(Tuner):
    """Listed with its reason only."""

    Config = NoOptions
    engine = "nni"

    def start(self, space: Space, config: NoOptions, seed: int, log: "logging.Logger") -> NoReturn:
        raise NotImplementedError(self.unavailable)


class Metis(Unavailable):
    """Gaussian processes that also ask where a trial teaches most.

    Li et al., "Metis: Robustly Optimizing Tail Latencies of Cloud Systems", USENIX ATC 2018.
    """

    unavailable = "draws from Python's generator in four threads at once: no search could be repeated or resumed"


class Smac(Unavailable):
    """Random forests as a model of the objective.

    Hutter, Hoos, Leyton-Brown, "Sequential Model-Based Optimization for General Algorithm Configuration", LION 2011.
    """

    unavailable = "NNI's module imports the packages smac and ConfigSpaceNNI, which NNI does not bring"


class Dngo(Unavailable):
    """A Bayesian linear regression on the features of a neural network.

    Snoek et al., "Scalable Bayesian Optimization Using Deep Neural Networks", ICML 2015.
    """

    unavailable = "NNI's module imports the package pybnn, which NNI does not bring"


class Bohb(Unavailable):
    """Hyperband whose trials are proposed by density estimates.

    Falkner, Klein, Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML 2018.
    """

    unavailable = "NNI's module imports the package ConfigSpace, which NNI does not bring; see nni.hyperband"


class PopulationBased(Unavailable):
    """Trials that take over the weights of better ones while they run.

    Jaderberg et al., "Population Based Training of Neural Networks", arXiv:1711.09846, 2017.
    """

    unavailable = "a trial goes on with the weights of another one, and stages share none"


class Ppo(Unavailable):
    """A policy that is trained to propose, by proximal policy optimization.

    Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347, 2017.
    """

    unavailable = "NNI's module imports TensorFlow and is made for networks; nni.nas has policy_rl"


class NetworkMorphism(Unavailable):
    """Grows networks by changes that keep what they compute.

    Jin, Song, Hu, "Auto-Keras: An Efficient Neural Architecture Search System", KDD 2019.
    """

    unavailable = "makes classifiers of its own, no numbers of a recipe; nni.nas searches architectures"
