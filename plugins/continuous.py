"""Pruning by gates that are learnt beside the weights."""

from bisect import bisect_left
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.config import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

    from detpress.detector.coupling import Group
    from detpress.detector.model import Model
    from detpress.pruning.gates import GateNames


class ContinuousOptions(Options):
    """What has gates, and how they are learnt."""

    masks: Literal["filters", "weights"] = Field(
        "weights", description="what a gate is for; nni.speedup can take out filters only"
    )
    epochs: int = Field(ge=2, le=10_000, description="of training in each round")
    rounds: int = Field(1, ge=1, le=100, description="trainings in which gates shut, one after the other")
    initial: float = Field(-0.1, ge=-10, le=10, description="s0, where gates start; the lower, the fewer stay open")
    penalty: float = Field(1e-8, ge=0, le=10, description="lambda, the factor of the sum of all gates in the loss")
    last_beta: float = Field(200.0, ge=1, le=1e6, description="beta in the last epoch of a round; it is 1 in the first")
    gate_rate: float = Field(0.1, gt=0, le=100, description="learning rate of the gates' own SGD")
    gate_momentum: float = Field(0.9, ge=0, lt=1, description="its momentum, Nesterov's")
    rewind: Literal["once", "every_round", "never"] = Field(
        "once",
        description="weights are set back to those of the first round's `rewind_epoch`: in the end; after every round",
    )
    rewind_epoch: int = Field(2, ge=0, le=10_000, description="after how many epochs; 0: as they came in")
    parameters: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the parameters that shall go; found by training with several strengths, which multiply "
        "`initial` and `penalty`",
    )
    macs: float | None = Field(None, gt=0, lt=1, description="likewise, share of the multiply-accumulates")
    trials: int = Field(6, ge=1, le=100, description="trainings, at most, to find it; all rounds of each")
    tolerance: float = Field(0.02, gt=0, lt=1, description="share that may go beyond it, at which no more are tried")
    exclude: list[str] = Field([], description="patterns of layers without gates, such as `layers.0` or `layers.1?`")
    training: TrainingOptions = TrainingOptions()

    @property
    def goal(self) -> float | None:
        """The share that shall go, of parameters or MACs; None where it is not searched for."""
        return self.parameters if self.macs is None else self.macs

    def met_by(self, removed: float) -> bool:
        assert self.goal is not None
        return self.goal <= removed <= self.goal + self.tolerance

    @model_validator(mode="after")
    def _one_goal(self) -> Self:
        if self.parameters is not None and self.macs is not None:
            raise ValueError("expected `parameters` or `macs`, not both")
        if self.macs is not None and self.masks == "weights":
            raise ValueError("macs: expected `masks: filters`; single weights take no multiply-accumulates out")
        if self.rewind_epoch > self.epochs:
            raise ValueError(f"rewind_epoch: expected at most `epochs`, {self.epochs}, got {self.rewind_epoch}")
        if self.goal is None and self.model_fields_set & {"trials", "tolerance"}:
            raise ValueError("trials, tolerance: expected only with `parameters` or `macs`")
        if self.rewind == "never" and not self.is_default("rewind_epoch"):
            raise ValueError("rewind_epoch: expected only where weights are set back, not with `rewind: never`")
        if self.goal is not None and self.initial >= 0:
            raise ValueError(f"initial: expected below 0 with `parameters` or `macs`, got {self.initial:g}")
        return self

    def at_strength(self, strength: float) -> "ContinuousOptions":
        return self.model_copy(update={"initial": strength * self.initial, "penalty": strength * self.penalty})


class Round(NamedTuple):
    """What a round leaves: the network, its gates' s by name, and the weights to go back to."""

    model: "Model"
    values: "dict[str, Tensor]"
    early: "Model"


class Sparsify(Plugin):
    """Learns which weights or filters to keep, by gates that are soft at first and end as 0 or 1.

    Savarese, Silva, Maire, "Winning the Lottery with Continuous Sparsification", arXiv:1912.04427, 2020, by the
    authors' code: m = sigmoid(beta s) / sigmoid(s0) on every weight of every convolution but the heads, penalty lambda
    1e-8, gates by an SGD of their own (rate 0.1, momentum 0.9, Nesterov, a tenth at epochs 56 and 71 of 85), beta from
    1 to 200 by the epoch, s <- min(beta s, s0) between rounds, of which there are 3 of 85 epochs (so the paper; its
    code sets beta to 1 before, which makes it min(s, s0)). Weights are not set back between rounds, and once in the
    end, to those after two epochs; `rewind` has it otherwise. The ticket is then to be trained, as `train.finetune`
    does it; its weights are scaled by 1 / sigmoid(s0), as they were in the last round.

    Changed: weights train by this trainer's AdamW, warm-up and cosine, anew in each round, and a round ends with their
    moving average; with `masks: filters` gates are on what whole filters give, one for all those that a residual stream
    couples; a layer in which no gate is open keeps the one that is widest. How much stays is not asked for but comes
    out: of `initial`, `penalty`, `gate_rate` and the length of the training. With `parameters` or `macs` s0 and lambda
    are searched for: no part of the method, and as many times as long. Where no training ends within `tolerance`, the
    gates of the closest are compared with another number than 0: as many are opened, or shut, as are missing.
    """

    Config = ContinuousOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED
    version = 2

    def plan(self, model: "Model", config: ContinuousOptions) -> Plan | None:
        import torch

        values, gated = gates_of(model, config)
        if config.goal is not None:
            one_open = {name: (torch.arange(s.numel()) == 0).view_as(s) for name, s in values.items()}
            most = share_removed(model, masked_ticket(model, one_open, gated, config), config)
            if most < config.goal:
                option = "parameters" if config.macs is None else "macs"
                raise InputError(
                    f"{option}: {config.goal:g} are asked for, and {most:.4f} go where each layer keeps one of its "
                    f"{config.masks}"
                )
        return None

    def apply(self, model: "Model", config: ContinuousOptions, bench: Workbench) -> "Model":
        from detpress.pruning.strength_search import Trial, best_trial, next_strength

        if config.goal is None:
            return ticket_of(last_round(1.0, model, config, bench), model, config)
        trials: list[Trial] = []
        while len(trials) < config.trials and not any(config.met_by(trial.removed) for trial in trials):
            strength = next_strength(trials, config.goal)
            last = last_round(strength, model, config, bench)
            removed = removed_by(last, model, config.at_strength(strength))
            trials.append(Trial(strength, removed))
            bench.log.info("strength %.4g: %.4f removed", strength, removed)
        best = best_trial(trials, config.goal)
        setting = config.at_strength(best.strength)
        last = last_round(best.strength, model, config, bench)
        threshold = 0.0 if config.met_by(best.removed) else threshold_for(config.goal, last, model, setting)
        ticket = ticket_of(last, model, setting, threshold)
        note = (
            f"{best.removed:.4f} removed, {config.goal:g} asked for: the closest of {len(trials)} trainings, "
            f"with `initial: {setting.initial:.4g}` and `penalty: {setting.penalty:.4g}`"
        )
        if threshold:
            note += (
                f"; {share_removed(model, ticket, config):.4f} by {threshold:.4g} in place of 0 as what opens a gate"
            )
        return replace(ticket, notes=(*ticket.notes, note))


def last_round(strength: float, given: "Model", asked: ContinuousOptions, bench: Workbench) -> Round:
    """What all rounds leave of `given` at this strength; remembered, round by round."""
    from detpress.pruning.gates import next_round

    config = asked.at_strength(strength)
    values, gated = gates_of(given, config)
    now = Round(given, values, given)
    for number in range(config.rounds):
        if number:
            start = {name: next_round(s, config.last_beta, config.initial) for name, s in now.values.items()}
            now = Round(now.early if config.rewind == "every_round" else now.model, start, now.early)
        key = {"strength": strength, "round": number}
        now = remembered_round(key, now, gated, config, bench)
        still_open = sum(int((s > 0).sum()) for s in now.values.values())
        every = sum(s.numel() for s in now.values.values())
        bench.log.info("round %d: %d of %d gates are open", number + 1, still_open, every)
    return now


def ticket_of(last: Round, given: "Model", config: ContinuousOptions, threshold: float = 0.0) -> "Model":
    """The network that rounds left, masked where s is not above the threshold. config: as it was in these rounds."""
    from detpress.pruning.gates import kept_by

    _, gated = gates_of(given, config)
    ticket = last.model if config.rewind == "never" else last.early
    return masked_ticket(ticket, {name: kept_by(s, threshold) for name, s in last.values.items()}, gated, config)


def threshold_for(goal: float, last: Round, given: "Model", config: ContinuousOptions) -> float:
    """The lowest of all s by which at least the goal goes, if a gate has to be above it to be open."""
    import torch

    every: list[float] = torch.cat([s.flatten() for s in last.values.values()]).sort().values.tolist()
    return every[bisect_left(every, goal, key=lambda s: removed_by(last, given, config, s))]


def removed_by(last: Round, given: "Model", config: ContinuousOptions, threshold: float = 0.0) -> float:
    """What goes of the parameters or MACs by `ticket_of`; nothing where all gates are open."""
    from detpress.pruning.gates import kept_by

    if all(bool(kept_by(s, threshold).all()) for s in last.values.values()):
        return 0.0
    return share_removed(given, ticket_of(last, given, config, threshold), config)


def share_removed(model: "Model", ticket: "Model", config: ContinuousOptions) -> float:
    """Of the parameters or MACs: weights at zero, or what goes when masked filters are taken out."""
    from detpress.detector.channels import removable_filters, without_filters
    from detpress.pruning.budgets import size_of

    whole = size_of(model.architecture)
    if config.masks == "weights":
        return sum(int((~mask).sum()) for mask in ticket.masks.values()) / whole.parameters
    left = size_of(without_filters(model.architecture, removable_filters(ticket.architecture, ticket.masks)))
    return 1 - (left.parameters / whole.parameters if config.macs is None else left.macs / whole.macs)


def gates_of(model: "Model", config: ContinuousOptions) -> "tuple[dict[str, Tensor], GateNames]":
    """The gates' s at the beginning, by name, and which parameter is multiplied by which.

    Raises InputError for a pattern that matches no layer, and where nothing is left to have gates.
    """
    from detpress.pruning.gates import gates_of_filters, gates_of_weights
    from detpress.pruning.single_weights import prunable_weights

    excluded = excluded_layers(model, config)
    if config.masks == "filters":
        found = gates_of_filters(model.network, gated_groups(model, config), config.initial)
    else:
        weights = [name for name in prunable_weights(model.architecture) if int(name.split(".")[1]) not in excluded]
        found = gates_of_weights(model.network, weights, config.initial)
    if not found[0]:
        raise InputError("exclude: nothing is left that could have gates")
    return found


def excluded_layers(model: "Model", config: ContinuousOptions) -> set[int]:
    from detpress.detector.layer_patterns import matching_layers

    names = model.architecture.names
    return {names.index(name) for name in matching_layers(config.exclude, names, "exclude")}


def gated_groups(model: "Model", config: ContinuousOptions) -> "dict[Group, Tensor]":
    """Those of whose filters none is excluded."""
    from detpress.pruning.filter_groups import prunable_groups

    excluded = excluded_layers(model, config)
    return {group: of for group, of in prunable_groups(model.architecture).items() if excluded.isdisjoint(group)}


def remembered_round(
    key: dict[str, float], before: Round, gated: "GateNames", config: ContinuousOptions, bench: Workbench
) -> Round:
    """What the round leaves of what came in, kept on disk."""
    from safetensors.torch import load_file, save_file

    from detpress.encodings.bundle import load_bundle, save_bundle

    def compute(folder: Path) -> None:
        after = trained_round(key["round"] == 0, before, gated, config, bench)
        save_bundle(after.model, folder / "bundle")
        save_bundle(after.early, folder / "early")
        save_file(after.values, folder / "gates.safetensors")

    folder = bench.remember(key, compute)
    return Round(load_bundle(folder / "bundle"), load_file(folder / "gates.safetensors"), load_bundle(folder / "early"))


def trained_round(first: bool, before: Round, gated: "GateNames", config: ContinuousOptions, bench: Workbench) -> Round:
    from detpress.pruning.gated_training import GatedTraining, GateRates
    from detpress.pruning.gates import without_gates
    from detpress.training.snapshot import Snapshot

    rates = GateRates(config.penalty, config.gate_rate, config.gate_momentum, config.last_beta)
    training = config.training.for_epochs(config.epochs)
    learnt = GatedTraining(before.values, gated, config.initial, rates)
    early = Snapshot(step=config.rewind_epoch * bench.steps_per_epoch(training))
    trained = bench.fit(before.model, training, (learnt, early))

    def plain(model: "Model") -> "Model":
        return model.with_network(without_gates(model.own_network))

    return Round(plain(trained), learnt.gates.values(), plain(early.model(trained)) if first else before.early)


def masked_ticket(model: "Model", kept: "dict[str, Tensor]", gated: "GateNames", config: ContinuousOptions) -> "Model":
    """The model whose gates are open or shut. kept: bool, by the gates' names. Raises StageError where none is shut."""
    import copy

    from detpress.detector.model import apply_masks
    from detpress.errors import StageError
    from detpress.pruning.filter_groups import masks_of_groups
    from detpress.pruning.gates import names_of_gates, scale_ticket

    network = copy.deepcopy(model.network)
    scale_ticket(network, gated, config.initial)
    if config.masks == "filters":
        names = names_of_gates(list(gated_groups(model, config)))
        masks = masks_of_groups(network, model.architecture, {group: kept[name] for group, name in names.items()})
    else:
        masks = {name: mask for name, mask in kept.items() if not mask.all()}
    if not masks:
        raise StageError("no gate has shut: try a lower `initial`, a larger `penalty`, or a longer training")
    apply_masks(network, masks)
    return model.with_network(network, Form.MASKED, masks)
