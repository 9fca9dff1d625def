"""Convolutions replaced by several smaller ones, whose ranks are chosen by energy, by MACs, or by milliseconds.

chain:
  - low_rank.svd: {macs: 0.5}
  - train.finetune: {epochs: 8}
  - inc.static_int8: {}
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options
from detpress.runtimes.names import RuntimeName

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model
    from detpress.low_rank.choice import Choice, Choices
    from detpress.low_rank.factorization import Factorization, Ranks

HALVINGS = 6  # of what may be left, between the least and the whole, by measuring


class LowRankOptions(Options):
    """What decides the ranks: one of `energy`, `macs` and `max_latency_ms`."""

    energy: float | None = Field(
        None, gt=0, lt=1, description="share of the squares of its weights that each layer keeps at least"
    )
    macs: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the network's multiply-accumulates that shall go, of all layers together",
    )
    max_latency_ms: dict[RuntimeName, float] = Field(
        {}, description="runtime -> median of one batch on this machine that the network shall take at most"
    )
    exclude: list[str] = Field([], description="patterns of layers that stay, such as `layers.0` or `layers.1?`")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [self.energy is not None, self.macs is not None, bool(self.max_latency_ms)]
        if sum(ways) != 1:
            raise ValueError("expected one of `energy`, `macs` and `max_latency_ms`")
        if min(self.max_latency_ms.values(), default=1) <= 0:
            raise ValueError("expected `max_latency_ms` above 0")
        return self


class LowRank(Plugin):
    """What the four have in common. They differ by their factorization."""

    Config = LowRankOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    @abstractmethod
    def method(self) -> "Factorization":
        """How one convolution becomes several."""

    def plan(self, model: "Model", config: LowRankOptions) -> Plan:
        from detpress.detector.model import new_model
        from detpress.low_rank.replacing import replaced_layers

        choices = choices_for(self.method(), model, config)
        if config.max_latency_ms:
            chosen = fewest(choices)
            note = "ranks are chosen by measuring; figures from here on are those of the smallest network"
        else:
            chosen = chosen_for(choices, model.architecture, config)
            note = "ranks are chosen by the weights; those of a network yet to be trained are not known"
        ranks = replaced_by(chosen)
        names = model.architecture.names
        said = ", ".join(f"{names[i]} {' '.join(map(str, each))}" for i, each in ranks.items())
        smaller = replaced_layers(model.architecture, self.method(), ranks)
        return Plan(tuple(names[i] for i in ranks), new_model(smaller, seed=0), f"{note}; here {said}")

    def repeats(self, config: LowRankOptions) -> bool:
        return not config.max_latency_ms

    def apply(self, model: "Model", config: LowRankOptions, bench: Workbench) -> "Model":
        from detpress.low_rank.replacing import replaced_in

        method, network = self.method(), model.own_network
        choices = choices_for(method, model, config)
        if config.max_latency_ms:
            chosen = measured_choice(method, model, choices, config, bench)
        else:
            chosen = chosen_for(choices, model.architecture, config)
        rows = []
        for i, one in chosen.items():
            whole = choices[i][0]
            rows.append({"layer": model.architecture.names[i], "ranks": one.ranks, "lost": one.lost})
            rows[-1] |= {"macs_before": whole.macs, "macs": one.macs}
            bench.log.info("%(layer)s: ranks %(ranks)s, %(macs_before)d -> %(macs)d MACs, %(lost).4f lost", rows[-1])
        bench.keep("ranks.json").write_text(json.dumps(rows, indent=1) + "\n")
        return model.with_network(replaced_in(network, method, replaced_by(chosen), bench.progress))


def choices_for(method: "Factorization", model: "Model", config: LowRankOptions) -> "Choices":
    """Of every layer that may be replaced.

    Raises InputError for a pattern that matches no layer, and where none is left that could compute less.
    """
    from detpress.detector.layer_patterns import matching_layers
    from detpress.errors import InputError
    from detpress.low_rank.replacing import network_choices, replaceable

    names = model.architecture.names
    excluded = matching_layers(config.exclude, names, "exclude")
    layers = [i for i in replaceable(model.architecture, method) if names[i] not in excluded]
    choices = network_choices(model.own_network, method, layers)
    if not choices:
        raise InputError(
            "no layer is left that would compute less: heads, layers with groups and excluded ones stay as they are, "
            "and all but low_rank.svd leave convolutions of 1 x 1"
        )
    return choices


def chosen_for(choices: "Choices", architecture: "Architecture", config: LowRankOptions) -> "dict[int, Choice]":
    """By `energy` or by `macs`. Raises InputError where not so many MACs can go, or nothing would be replaced."""
    from detpress.errors import InputError
    from detpress.low_rank.choice import keeping, within

    if config.energy is not None:
        chosen = keeping(choices, config.energy)
        if not any(one.ranks for one in chosen.values()):
            raise InputError(f"energy: at {config.energy:g} no layer would compute less; expected a lower share")
        return chosen
    assert config.macs is not None
    try:
        return within(choices, budget_of(choices, architecture, config.macs))
    except InputError as error:
        raise InputError(f"macs: {error}") from error


def budget_of(choices: "Choices", architecture: "Architecture", share: float) -> int:
    """MACs that the layers with choices may have, when this share of the whole network's goes."""
    import math

    from detpress.measure.size import macs

    whole = macs(architecture)
    others = whole - sum(every[0].macs for every in choices.values())
    return math.floor((1 - share) * whole + 1e-6) - others


def replaced_by(chosen: "Mapping[int, Choice]") -> "dict[int, Ranks]":
    """Of the layers that do not stay."""
    return {i: one.ranks for i, one in chosen.items() if one.ranks}


def fewest(choices: "Choices") -> "dict[int, Choice]":
    return {i: every[-1] for i, every in choices.items()}


def measured_choice(
    method: "Factorization", model: "Model", choices: "Choices", config: LowRankOptions, bench: Workbench
) -> "dict[int, Choice]":
    """The most MACs with which the network is as fast as asked for: the span between too few and too many is halved.

    Raises StageError where the smallest network is too slow, or the given one fast enough.
    """
    from detpress.errors import StageError
    from detpress.low_rank.choice import within

    def too_slow(chosen: "Mapping[int, Choice]") -> str:
        """Which runtimes take longer than asked for; empty where none does."""
        found = latencies(method, model.architecture, replaced_by(chosen), config, bench)
        bench.log.info("%d MACs: %s ms", sum(one.macs for one in chosen.values()), found)
        over = {runtime: ms for runtime, ms in found.items() if ms > config.max_latency_ms[runtime]}
        return ", ".join(f"{ms:.3f} ms in {runtime}" for runtime, ms in over.items())

    best = fewest(choices)
    if slow := too_slow(best):
        raise StageError(f"with every rank at 1 the network takes {slow}; it cannot be made as fast as asked for")
    whole = {i: every[0] for i, every in choices.items()}
    if not too_slow(whole):
        raise StageError("the network is as fast as `max_latency_ms` asks for: there is nothing to replace")
    low, high = (sum(one.macs for one in chosen.values()) for chosen in (best, whole))
    for done in range(HALVINGS):
        bench.progress("networks measured", done, HALVINGS)
        budget = (low + high) // 2
        chosen = within(choices, budget)
        if too_slow(chosen):
            high = budget
        else:
            low, best = budget, chosen
    return best


def latencies(
    method: "Factorization",
    architecture: "Architecture",
    ranks: "dict[int, Ranks]",
    config: LowRankOptions,
    bench: Workbench,
) -> dict[RuntimeName, float]:
    """Milliseconds in the runtimes with a limit, measured once for each set of ranks, also across kills."""
    from detpress.detector.model import new_model
    from detpress.low_rank.replacing import replaced_layers

    def compute(folder: Path) -> None:
        model = new_model(replaced_layers(architecture, method, ranks), bench.seed)  # its weights do not matter here
        found = {runtime: bench.latency_ms(model, runtime) for runtime in config.max_latency_ms}
        (folder / "latency.json").write_text(json.dumps(found))

    folder = bench.remember({"latency": list(ranks.items())}, compute)
    found: dict[RuntimeName, float] = json.loads((folder / "latency.json").read_text())
    return found


class Svd(LowRank):
    """Replaces a convolution by r filters of its size and a 1x1 convolution that mixes them, by its SVD.

    Of the weights as a matrix, filters by what they see, the r largest singular values stay: o (i k k) weights become
    r (i k k + o), and no other r filters come closer, by the sum of squares. Denton, Zaremba, Bruna, LeCun, Fergus,
    "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation", arXiv:1404.0736, 2014, of
    which the abstract alone was at hand. These two layers are also those of Zhang, Zou, He, Sun, "Accelerating Very
    Deep Convolutional Networks for Classification and Detection", arXiv:1505.06798, 2015, whose squares are those of
    responses, not of weights. 1x1 convolutions become two.

    BatchNorm and activation stay behind the last of the new convolutions; heads and layers with groups stay as they
    are. By `macs`, as Zhang et al. choose ranks, what loses least for a MAC goes first, here over all layers by shares
    of their squares; the count is exact, at the budget or a little below. By `max_latency_ms` such budgets are halved
    and the networks measured. Training goes on behind (`train.finetune`). Exported to Darknet, too.
    """

    def method(self) -> "Factorization":
        from detpress.low_rank.factorization import Svd as Factorized

        return Factorized()


class Spatial(LowRank):
    """Replaces a k x k convolution by r of k x 1 and one of 1 x k.

    o i k k weights become r k (i + o). Jaderberg, Vedaldi, Zisserman, "Speeding up Convolutional Neural Networks with
    Low Rank Expansions", arXiv:1405.3866, 2014, their second scheme, in the closed form of Tai, Xiao, Zhang, Wang, E,
    "Convolutional neural networks with low-rank regularization", arXiv:1511.06067, 2016: the SVD of the weights as a
    matrix, input channels and rows by filters and columns. Of both the abstracts alone were at hand; the form is held
    against its numbers: at full rank the same maps, below it an error of what was left out. A stride goes down in the
    first and across in the second. 1x1 convolutions stay as they are (`low_rank.svd` replaces these).

    What stays, and how ranks are chosen: as with `low_rank.svd`. Darknet has no such kernels: its export is refused.
    """

    def method(self) -> "Factorization":
        from detpress.low_rank.factorization import Spatial as Factorized

        return Factorized()


class Tucker(LowRank):
    """Replaces a k x k convolution by 1x1, a smaller k x k, and 1x1: its Tucker-2 decomposition.

    o i k k weights become i r + r s k k + s o. Kim, Park, Yoo, Choi, Yang, Shin, "Compression of Deep Convolutional
    Neural Networks for Fast and Low Power Mobile Applications", arXiv:1511.06530, 2016, from memory: singular vectors
    of both sides to begin with (HOSVD), then each side the best for the other in turns (HOOI), 10 of them. Their ranks
    come of a variational Bayes, here of energy, MACs or milliseconds: of r and s the one goes first that loses less for
    a MAC, and what both lose is at most the sum. 1x1 convolutions stay as they are: an SVD does with two layers what
    three would do.

    What else stays, and how ranks are chosen: as with `low_rank.svd`. Exported to Darknet, too.
    """

    def method(self) -> "Factorization":
        from detpress.low_rank.tucker import Tucker as Factorized

        return Factorized()


class Cp(LowRank):
    """Replaces a k x k convolution by 1x1, k x 1 and 1 x k on each channel by itself, and 1x1: its CP decomposition.

    o i k k weights become r (i + 2 k + o). Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky, "Speeding-up Convolutional
    Neural Networks Using Fine-tuned CP-Decomposition", arXiv:1412.6553, 2015, from memory. They solve by nonlinear
    least squares and train on with very small steps; here up to 50 rounds of alternating least squares, each step held
    near the last, from a start that is exact at full rank and whose error is known below: what is lost, by which ranks
    are chosen, is that start's, and less in the end. The sum of so many products has no best one in general, and
    products may grow that cancel each other (Phan et al., arXiv:2008.05441, 2020); the holding keeps them small.

    Of the four it has the fewest weights for a rank and the most layers, two of them depthwise, which not every runtime
    computes fast: measure it. What stays, and how ranks are chosen: as with `low_rank.svd`; 1x1 convolutions stay, too.
    Darknet has no such kernels: its export is refused.
    """

    def method(self) -> "Factorization":
        from detpress.low_rank.canonical import Cp as Factorized

        return Factorized()
