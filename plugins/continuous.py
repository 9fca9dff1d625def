"""Pruning by gates that are learnt beside the weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options
from detpress.training.config import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

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
    exclude: list[str] = Field([], description="patterns of layers without gates, such as `layers.0` or `layers.1?`")
    training: TrainingOptions = TrainingOptions()


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
    1 to 200 by the epoch, s <- min(beta s, s0) between rounds, of which there are 3 of 85 epochs. Weights are not set
    back between rounds, and once in the end, to those after two epochs; `rewind` has it otherwise. The ticket is then
    trained as `train.finetune` does it: its weights are scaled by 1 / sigmoid(s0), as they were in the last round.

    Changed: weights train by this trainer's AdamW, warm-up and cosine, anew in each round, and a round ends with their
    moving average; with `masks: filters` gates are on what whole filters give, one for all those that a residual stream
    couples; a layer in which no gate is open keeps the one that is widest. How much stays is not asked for but comes
    out: of `initial`, `penalty`, `gate_rate` and the length of the training. The paper's penalty is for its long ones.
    """

    Config = ContinuousOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED

    def plan(self, model: "Model", config: ContinuousOptions) -> Plan | None:
        gates_of(model, config)
        return None

    def apply(self, model: "Model", config: ContinuousOptions, bench: Workbench) -> "Model":
        from detpress.pruning.gates import kept_by, next_round

        values, gated = gates_of(model, config)
        before = Round(model, values, model)
        for number in range(config.rounds):
            if number:
                start = {name: next_round(s, config.last_beta, config.initial) for name, s in before.values.items()}
                weights = before.early if config.rewind == "every_round" else before.model
                before = Round(weights, start, before.early)
            before = remembered_round(number, before, gated, config, bench)
            open_gates = sum(int((s > 0).sum()) for s in before.values.values())
            every = sum(s.numel() for s in before.values.values())
            bench.log.info("round %d: %d of %d gates are open", number + 1, open_gates, every)
        ticket = before.model if config.rewind == "never" else before.early
        return masked_ticket(ticket, {name: kept_by(s) for name, s in before.values.items()}, gated, config)


def gates_of(model: "Model", config: ContinuousOptions) -> "tuple[dict[str, Tensor], GateNames]":
    """The gates' s at the beginning, by name, and which parameter is multiplied by which.

    Raises InputError for a pattern that matches no layer, and where nothing is left to have gates.
    """
    from detpress.detector.layer_patterns import matching_layers
    from detpress.errors import InputError
    from detpress.pruning.filter_groups import prunable_groups
    from detpress.pruning.gates import gates_of_filters, gates_of_weights
    from detpress.pruning.single_weights import prunable_weights

    names = model.architecture.names
    excluded = {names.index(name) for name in matching_layers(config.exclude, names, "exclude")}
    if config.masks == "filters":
        groups = [group for group in prunable_groups(model.architecture) if excluded.isdisjoint(group)]
        found = gates_of_filters(model.network, groups, config.initial)
    else:
        weights = [name for name in prunable_weights(model.architecture) if int(name.split(".")[1]) not in excluded]
        found = gates_of_weights(model.network, weights, config.initial)
    if not found[0]:
        raise InputError("exclude: nothing is left that could have gates")
    return found


def remembered_round(
    number: int, before: Round, gated: "GateNames", config: ContinuousOptions, bench: Workbench
) -> Round:
    """What the round leaves of what came in, kept on disk."""
    from safetensors.torch import load_file, save_file

    from detpress.encodings.bundle import load_bundle, save_bundle

    def compute(folder: Path) -> None:
        after = trained_round(number, before, gated, config, bench)
        save_bundle(after.model, folder / "bundle")
        save_bundle(after.early, folder / "early")
        save_file(after.values, folder / "gates.safetensors")

    folder = bench.remember({"round": number}, compute)
    return Round(load_bundle(folder / "bundle"), load_file(folder / "gates.safetensors"), load_bundle(folder / "early"))


def trained_round(number: int, before: Round, gated: "GateNames", config: ContinuousOptions, bench: Workbench) -> Round:
    from detpress.detector.network import Network
    from detpress.pruning.gated_training import GatedTraining, GateRates
    from detpress.pruning.gates import without_gates
    from detpress.training.snapshot import Snapshot

    rates = GateRates(config.penalty, config.gate_rate, config.gate_momentum, config.last_beta)
    training = config.training.for_epochs(config.epochs)
    learnt = GatedTraining(before.values, gated, config.initial, rates)
    early = Snapshot(step=min(config.rewind_epoch, config.epochs) * bench.steps_per_epoch(training))
    trained = bench.fit(before.model, training, (learnt, early))

    def plain(model: "Model") -> "Model":
        assert isinstance(model.network, Network)
        return model.with_network(without_gates(model.network))

    if number:
        return Round(plain(trained), learnt.gates.values(), before.early)
    return Round(plain(trained), learnt.gates.values(), plain(early.model(trained)))


def masked_ticket(model: "Model", kept: "dict[str, Tensor]", gated: "GateNames", config: ContinuousOptions) -> "Model":
    """The model whose gates are open or shut. kept: bool, by the gates' names."""
    import copy

    from detpress.detector.model import apply_masks
    from detpress.pruning.filter_groups import masks_of_groups, prunable_groups
    from detpress.pruning.gates import scale_ticket

    network = copy.deepcopy(model.network)
    scale_ticket(network, gated, config.initial)
    if config.masks == "filters":
        groups = {group: f"layers.{group[0]}" for group in prunable_groups(model.architecture)}
        masks = masks_of_groups(network, {group: kept[name] for group, name in groups.items() if name in kept})
    else:
        masks = {name: mask for name, mask in kept.items() if not mask.all()}
    apply_masks(network, masks)
    return model.with_network(network, Form.MASKED if masks else None, masks)
