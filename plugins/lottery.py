"""Lottery tickets: small networks inside large ones, found by pruning what was trained and going back.

chain:
  - lottery.ticket:
      rounds: 1
      share: 0.9
      rewind_to: {share: 0.033}
      training: {epochs: 300}
"""

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.plugins.prune import MaskOptions, note_of
from detpress.training.config import TrainingConfig
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from torch import Tensor

    from detpress.detector.model import Model


class Moment(Options):
    """A moment of the first training. Either a step or a share of the steps."""

    step: int | None = Field(None, ge=0, description="after so many steps of the optimizer")
    share: float | None = Field(None, ge=0, le=1, description="after this share of the steps; 0 is before the first")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.step is None) == (self.share is None):
            raise ValueError("expected either `step` or `share`")
        return self


class TicketOptions(MaskOptions):
    """How many rounds, how much a round, and where each goes back to."""

    rounds: int = Field(ge=1, le=100, description="of pruning, each followed by a training; 1: one-shot")
    share: float = Field(
        0.2, gt=0, lt=1, description="of the weights, or of the filters, that are left: so much is masked in each round"
    )
    rewind_to: Moment = Field(
        Moment(share=0.0), description="whose weights each round trains from, with BatchNorm's statistics"
    )
    control: Literal["none", "random_mask", "random_weights"] = Field(
        "none",
        description="instead of the last round's ticket: as many of each layer, drawn at random, with the ticket's "
        "weights; or the ticket's mask with new initial weights",
    )
    training: TrainingConfig = Field(description="of the whole network, and of each round")


class Ticket(Plugin):
    """Trains, masks the smallest weights, sets the others back to what they were early in the training; again.

    Frankle, Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", arXiv:1803.03635,
    2018: p = 20 % a round, back to the initial weights (`rewind_to: {share: 0}`), with both controls. There, the output
    layer is pruned at half the rate; heads are left whole here. Frankle, Dziugaite, Roy, Carbin, "Stabilizing the
    Lottery Ticket Hypothesis", arXiv:1903.01611, 2019: back to step k, and the remaining T - k steps are trained; here,
    as in the study below, each round trains all T anew. For deep networks k was 500 steps (ResNet-18 on CIFAR-10) to
    6.6 % of the training (SqueezeNet on ImageNet). Girish, Maiya, Gupta, Chen, Davis, Shrivastava, "The Lottery Ticket
    Hypothesis for Object Recognition", arXiv:2012.04643, 2021: for detectors one-shot is as good as many rounds, each
    layer by itself as good as a global ranking. Salvi, Barros, "An Experimental Analysis of Model Compression
    Techniques for Object Detection", KDMiLe 2020, and "Model Compression in Object Detection", IJCNN 2021, with
    YOLOv3 on VOC: `rounds: 1, share: 0.9`, back to epoch 10 of 300 (`rewind_to: {share: 0.0333}`), optimizer begun
    anew, each layer by itself or global: mAP .549 and .561, both ± .009, against .547 ± .012 of the whole network.

    The first training starts from the weights that the model has: those drawn from the seed, unless a bundle brings
    others. Of N weights exactly N - floor(N (1 - (1 - share)^r)) are kept after round r, in every layer or, by
    `ranking: global`, in all together; authors' codes differ by one. Scored is the moving average that a training
    gives, what is set back are the weights themselves. `masks: filters` scores and couples filters as prune.magnitude
    does, for nni.speedup. The mAP of each round on the validation images is in `files/rounds.csv` and in the report.
    Every round is kept when it is done: after a kill it is the unfinished one that goes on.
    """

    Config = TicketOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED

    def plan(self, model: "Model", config: TicketOptions) -> Plan:
        from detpress.pruning.unit import UNITS, even_scores, masked_layers, masked_model

        unit = UNITS[config.masks]
        whole = unit.kept(model)
        left = _left(even_scores(whole), whole, config, config.rounds)
        before = _left(even_scores(whole), whole, config, config.rounds - 1) if config.rounds > 1 else whole
        if _share_of(left) == _share_of(before):
            raise InputError(f"rounds: the last of {config.rounds} would mask nothing more: expected fewer")
        planned = masked_model(model, unit, left)
        return Plan(masked_layers(planned), planned, note_of(config))

    def check(self, model: "Model", config: TicketOptions, images: ImageCounts) -> None:
        from detpress.training.step import steps_per_epoch

        super().check(model, config, images)
        images.check_validation("the curve over the rounds ")
        if config.rewind_to.step and math.isfinite(images.train):
            steps = config.training.epochs * steps_per_epoch(int(images.train), config.training)
            if config.rewind_to.step > steps:
                raise InputError(f"rewind_to.step: {config.rewind_to.step} of a training that has {steps} steps")

    def apply(self, model: "Model", config: TicketOptions, bench: Workbench) -> "Model":
        from detpress.detector.model import new_model
        from detpress.pruning.selection import shuffled
        from detpress.pruning.unit import UNITS, masked_model

        unit = UNITS[config.masks]
        kept = unit.kept(model)
        bench.progress("rounds", 0, config.rounds)
        trained, start, score = _first_training(model, config, bench)
        curve = [(_share_of(kept), score)]
        for number in range(1, config.rounds + 1):
            kept = _left(unit.magnitudes(trained, kept), kept, config, number)
            if number == config.rounds and config.control == "random_mask":
                kept = shuffled(kept, bench.seed)
            if number == config.rounds and config.control == "random_weights":
                start = start.with_network(new_model(start.architecture, bench.seed + 1).network)
            trained, score = _round(number, masked_model(start, unit, kept), config, bench)
            curve.append((_share_of(kept), score))
            bench.progress("rounds", number, config.rounds)
            bench.log.info("round %d: %.4f of the %s kept, mAP %.4f", number, curve[-1][0], config.masks, score)
        _keep_curve(curve, config, bench)
        bench.figure(f"kept_{config.masks}", sum(int(mask.sum()) for mask in kept.values()))
        return trained


def _left(
    scores: "dict[Any, Tensor]", kept: "dict[Any, Tensor]", config: TicketOptions, rounds: int
) -> "dict[Any, Tensor]":
    """What is kept after so many rounds: never more than before."""
    from detpress.pruning.selection import select
    from detpress.pruning.unit import UNITS

    return select(scores, kept, config.share, config.ranking, rounds, UNITS[config.masks].at_least)


def _share_of(kept: "dict[Any, Tensor]") -> float:
    return sum(int(mask.sum()) for mask in kept.values()) / sum(mask.numel() for mask in kept.values())


def _first_training(model: "Model", config: TicketOptions, bench: Workbench) -> "tuple[Model, Model, float]":
    """The whole network trained, what it was at the moment that is gone back to, and the mAP of the former."""
    from detpress.encodings.bundle import load_bundle, save_bundle
    from detpress.training.snapshot import Snapshot

    def compute(folder: Path) -> None:
        early = Snapshot(share=config.rewind_to.share or 0.0, step=config.rewind_to.step)
        trained = bench.fit(model, config.training, objectives=(early,))
        save_bundle(trained, folder / "trained")
        save_bundle(early.model(trained), folder / "early")
        (folder / "map.json").write_text(json.dumps(bench.evaluate(trained)))

    folder = bench.remember({"round": 0}, compute)
    return load_bundle(folder / "trained"), load_bundle(folder / "early"), json.loads((folder / "map.json").read_text())


def _round(number: int, ticket: "Model", config: TicketOptions, bench: Workbench) -> "tuple[Model, float]":
    """The ticket trained, and its mAP."""
    from detpress.encodings.bundle import load_bundle, save_bundle

    def compute(folder: Path) -> None:
        trained = bench.fit(ticket, config.training)
        save_bundle(trained, folder / "trained")
        (folder / "map.json").write_text(json.dumps(bench.evaluate(trained)))

    folder = bench.remember({"round": number}, compute)
    return load_bundle(folder / "trained"), json.loads((folder / "map.json").read_text())


def _keep_curve(curve: list[tuple[float, float]], config: TicketOptions, bench: Workbench) -> None:
    """mAP on the validation images against what is kept. A control leaves the curve in the last round."""
    header = [f"share of the {config.masks} kept", "mAP of the rounds"]
    rows = [[f"{share:.6f}", f"{score:.6f}"] for share, score in curve]
    if config.control != "none":
        header.append(f"mAP of {config.control}")
        *rounds, before, (share, score) = rows
        rows = [*([*row, ""] for row in rounds), [*before, before[1]], [share, "", score]]
    with bench.keep("rounds.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
