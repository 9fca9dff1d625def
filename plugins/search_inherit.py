"""A smaller network searched inside of a trained one, whose weights it inherits."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.plugins.search_trials import Choices, SearchOptions, Trials
from detpress.training.config import TrainingConfig
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model
    from detpress.pruning.budgets import Cut
    from detpress.pruning.members import Members

POOL = 50  # members within the budgets of which the super-network's training draws


class InheritOptions(SearchOptions):
    """What may be chosen, at what cost, and how the super-network is trained."""

    widths: list[float] = Field(
        [0.25, 0.5, 0.75, 1.0], min_length=1, description="shares of its filters that a section may keep"
    )
    depths: list[float] = Field(
        [0.25, 0.5, 1.0], min_length=1, description="shares of its residual blocks that a section may keep, rounded up"
    )
    trials: int = Field(60, ge=1, le=10_000, description="members that are scored")
    population: int = Field(12, ge=2, description="evolution: members kept")
    tournament: int = Field(4, ge=1, description="evolution: members of which the best one is mutated")
    at_random: int = Field(2, ge=0, le=16, description="members that learn in a step, beside the largest and smallest")
    statistics_images: int = Field(128, ge=2, description="training images that a member's BatchNorms see")
    supernet: TrainingConfig = Field(TrainingConfig(epochs=10), description="training of the super-network")

    @model_validator(mode="after")
    def _makes_members(self) -> Self:
        if not all(0 < width <= 1 for width in self.widths) or not all(0 <= depth <= 1 for depth in self.depths):
            raise ValueError("expected `widths` above 0 and up to 1, and `depths` from 0 to 1")
        return self


class Inherit(Plugin):
    """Searches the best network within budgets inside of the given one, and gives it that one's weights.

    The given network, trained, is the super-network; any layer list will do. Of each of its sections (runs of layers
    at one scale) a width and a number of residual blocks is chosen. First it is trained on, so that the members inside
    of it work with its weights: in each step the largest, the smallest and some within the budgets learn together, the
    sandwich rule of Yu and Huang, arXiv:1903.05134, 2019. Then members are drawn by NNI's regularized evolution (Real
    et al., arXiv:1802.01548, 2019). One that is within the budgets, as counted from the layer list and as measured,
    gets the super-network's most important filters and first blocks, BatchNorm's statistics of its own, and is scored
    on the validation images; it is not trained. The best one is the result, as it was scored: `train.finetune` after
    it trains it to the end.

    As in "Once-for-All" (Cai, Gan, Wang, Zhang, Han, arXiv:1908.09791, 2020), one network is trained and many are
    scored, and channels are sorted by importance. Changed: the importance is DepGraph's, over all that a filter is
    coupled to, and decided once, from the given network; the members learn the detection loss, not what the largest
    says; kernels and input sizes stay; what is drawn while training is within the budgets, which OFA, made for many
    budgets at once, does not ask. OFA shrinks progressively, kernels first; here all widths and depths from the start,
    as in BigNAS (Yu et al., arXiv:2003.11142, 2020).
    """

    Config = InheritOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    engine = "nni"

    def plan(self, model: "Model", config: InheritOptions) -> Plan:
        from detpress.detector.model import new_model
        from detpress.errors import InputError
        from detpress.pruning.budgets import size_of

        members = members_of(model, config)
        smallest = members.architecture_of(members.smallest)
        size = size_of(smallest)
        for option, least in (("max_parameters", size.parameters), ("max_macs", size.macs)):
            most = getattr(config, option)
            if most is not None and least > most:
                raise InputError(f"{option}: {most:,} are asked for, and the smallest network has {least:,}")
        firsts = {group[0]: None for section in members.sections for group in section.groups}
        names = tuple(model.architecture.names[i] for i in firsts)
        note = "which network wins is not known before: figures from here on are the smallest one's"
        return Plan(names, new_model(smallest, seed=0), note)

    def check(self, model: "Model", config: InheritOptions, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_validation()
        images.check_asked(config, "statistics_images")

    def repeats(self, config: InheritOptions) -> bool:
        return not config.max_latency_ms

    def apply(self, model: "Model", config: InheritOptions, bench: Workbench) -> "Model":
        from detpress.adapters.nni_nas import run_trials

        members = members_of(model, config)
        trials = Trials(members.architecture_of, config, bench)
        inheritance = Inheritance(model, members, trials, config, bench)

        def judge(choices: Choices) -> float:
            return trials.judge(choices, lambda _, architecture: (inheritance.score(choices, architecture), None))

        run_trials("evolution", trials.evolution(), members.choices, judge, trials.enough, bench.seed, bench.log)
        trials.keep("mAP on the validation images with inherited weights")
        winner = trials.winner()
        bench.log.info("network %d of %d wins: %s", winner["trial"], len(trials.made), winner)
        return inheritance.member(winner["choices"])


def members_of(model: "Model", config: InheritOptions) -> "Members":
    from detpress.pruning.members import Members

    return Members(model.architecture, config.widths, config.depths)


class Inheritance:
    """The super-network, trained, and what its members get of it."""

    def __init__(
        self, given: "Model", members: "Members", trials: Trials, config: InheritOptions, bench: Workbench
    ) -> None:
        from detpress.pruning.coupled_tensors import coupled_tensors, importance
        from detpress.pruning.filter_groups import prunable_groups

        self.given, self.members, self.trials, self.config, self.bench = given, members, trials, config, bench
        groups = prunable_groups(given.architecture)
        self.importance = importance(given.network, coupled_tensors(given.architecture, groups))
        self.images = bench.calibration(config.statistics_images, config.is_default("statistics_images"))
        self.supernet = bench.remember_model({"supernet": config.supernet.model_dump(mode="json")}, self._trained)

    def _trained(self) -> "Model":
        """On the loss of members within the budgets, too."""
        import random

        from detpress.pruning.sandwich import Sandwich

        def within(architecture: "Architecture") -> bool:
            return not self.trials.excess(self.trials.sizes(architecture))

        def other(number: int) -> "Cut":
            generator = random.Random(f"{self.bench.seed} {number}")
            return self.members.cut(self.members.drawn(within, generator), self.importance)

        smallest = self.members.cut(self.members.smallest, self.importance)
        sandwich = Sandwich(self.given.own_network, smallest, other, POOL, self.config.at_random)
        return self.bench.fit(self.given, self.config.supernet, (sandwich,))

    def member(self, choices: Choices) -> "Model":
        """With the super-network's weights, and BatchNorm's statistics of its own."""
        from detpress.pruning.cutting import carry_out
        from detpress.training.statistics import with_statistics_of

        inherited = carry_out(self.supernet.own_network, self.members.cut(choices, self.importance))
        return self.given.with_network(with_statistics_of(inherited, self.images, device=self.bench.device))

    def score(self, choices: Choices, architecture: "Architecture") -> float:
        """mAP on the validation images, computed once, also across kills."""

        def compute(folder: Path) -> None:
            (folder / "trial.json").write_text(json.dumps(self.bench.evaluate(self.member(choices))))

        folder = self.bench.remember({"member": architecture.as_dict()}, compute)
        return float(json.loads((folder / "trial.json").read_text()))
