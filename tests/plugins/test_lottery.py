"""Lottery tickets: what each round trains from, how much it keeps, and that a kill changes nothing."""

import copy
import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_training import KilledError, same_bits
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.measure.section import Measure
from detpress.plugins.lottery import Moment, Ticket, TicketOptions
from detpress.plugins.nni_speedup import NoOptions, Speedup
from detpress.pruning.selection import left_after
from detpress.pruning.unit import UNITS
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training.config import TrainingConfig
from detpress.training.image_counts import ImageCounts
from detpress.training.objective import Objective
from detpress.training.snapshot import Snapshot
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits

SHORT = TrainingConfig(epochs=2, batch_size=2)  # of six images: six steps
THREE_ROUNDS = TicketOptions(rounds=3, share=0.3, rewind_to=Moment(step=2), training=SHORT)


@dataclass
class WatchedBench(StageWorkbench):
    """Remembers what it was given to train."""

    given: list[Model] = field(default_factory=list)
    snapshot: dict[str, Tensor] = field(default_factory=dict)

    def fit(self, model: Model, training: TrainingConfig, objectives: tuple[Objective, ...] = ()) -> Model:
        self.given.append(copy.deepcopy(model))
        trained = super().fit(model, training, objectives)
        for objective in objectives:
            assert isinstance(objective, Snapshot)
            self.snapshot = objective.tensors
        return trained


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 6, "val": 2})
    return open_devkit(root)


def tiny(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 64, 0.0625), seed=0)


def watched(devkit: Devkit, scratch: Path, progress: Callable[[str, int, int], None] = quiet) -> WatchedBench:
    scratch.mkdir(exist_ok=True)
    log = logging.getLogger("tests.lottery")
    architecture = tiny(devkit).architecture
    data, files = Data(root=""), scratch / "files"
    return WatchedBench(0, scratch, log, progress, devkit, data, Measure(), architecture=architecture, files=files)


def found_by(bench: WatchedBench, devkit: Devkit, config: TicketOptions) -> Model:
    return Ticket().apply(tiny(devkit), config, bench)


@dataclass
class Found:
    bench: WatchedBench
    ticket: Model


@pytest.fixture(scope="module")
def three_rounds(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Found:
    bench = watched(devkit, tmp_path_factory.mktemp("rounds") / "scratch")
    return Found(bench, found_by(bench, devkit, THREE_ROUNDS))


def test_every_round_trains_from_the_remembered_weights_and_statistics(three_rounds: Found, devkit: Devkit) -> None:
    whole, *tickets = three_rounds.bench.given
    early = three_rounds.bench.snapshot
    assert same_bits(whole, tiny(devkit))
    assert len(tickets) == 3
    assert not torch.equal(
        early["layers.0.norm.running_mean"], whole.network.state_dict()["layers.0.norm.running_mean"]
    )
    for ticket in tickets:
        for name, tensor in ticket.network.state_dict().items():
            mask = ticket.masks.get(name)
            assert torch.equal(tensor, early[name] if mask is None else early[name] * mask), name


def test_masks_only_shrink_and_keep_the_number_that_they_say(three_rounds: Found) -> None:
    for number, ticket in enumerate(three_rounds.bench.given):
        for mask in UNITS["weights"].kept(ticket).values():
            assert int(mask.sum()) == left_after(mask.numel(), 0.3, number)
    for before, after in zip(three_rounds.bench.given[1:], three_rounds.bench.given[2:], strict=False):
        assert all(not (after.masks[name] & ~before.masks[name]).any() for name in after.masks)


def test_the_ticket_is_the_last_round_trained_with_its_zeros(three_rounds: Found) -> None:
    ticket, last = three_rounds.ticket, three_rounds.bench.given[-1]
    assert ticket.form is Form.MASKED
    assert ticket.masks.keys() == last.masks.keys()
    for name, mask in ticket.masks.items():
        weight = ticket.network.get_parameter(name)
        assert torch.equal(mask, last.masks[name])
        assert not weight[~mask].any()
        assert not torch.equal(weight, last.network.get_parameter(name))


def test_the_rounds_are_a_curve(three_rounds: Found) -> None:
    header, *rows = csv.reader((three_rounds.bench.scratch / "files/rounds.csv").read_text().splitlines())
    assert header == ["share of the weights kept", "mAP of the rounds"]
    assert [float(share) for share, _ in rows] == pytest.approx([1, 0.7, 0.49, 0.343], abs=1e-3)
    assert float(rows[-1][1]) == pytest.approx(three_rounds.bench.evaluate(three_rounds.ticket), abs=1e-6)
    kept = sum(int(mask.sum()) for mask in UNITS["weights"].kept(three_rounds.ticket).values())
    assert three_rounds.bench.figures == {"kept_weights": kept}


def test_killed_in_a_round_it_goes_on_in_it_to_the_same_bits(
    three_rounds: Found, devkit: Devkit, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("epoch 2") and len(bench.given) == 3:
            raise KilledError

    bench = watched(devkit, tmp_path / "scratch", stop)
    with pytest.raises(KilledError):
        found_by(bench, devkit, THREE_ROUNDS)
    again = watched(devkit, tmp_path / "scratch")
    assert same_bits(found_by(again, devkit, THREE_ROUNDS), three_rounds.ticket)
    assert len(again.given) == 2  # the rounds 2 and 3
    curves = [(folder / "files/rounds.csv").read_text() for folder in (again.scratch, three_rounds.bench.scratch)]
    assert curves[0] == curves[1]


@pytest.fixture(scope="module")
def one_shot(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Found]:
    """Of one round with these options."""

    def found(**options: Any) -> Found:
        bench = watched(devkit, tmp_path_factory.mktemp("one") / "scratch")
        config = TicketOptions(rounds=1, share=0.6, training=TrainingConfig(epochs=1, batch_size=2), **options)
        return Found(bench, found_by(bench, devkit, config))

    return found


def test_controls_differ_from_the_ticket_in_one_thing(one_shot: Callable[..., Found], devkit: Devkit) -> None:
    ticket, mask, weights = (
        one_shot(control=control, ranking="global") for control in ("none", "random_mask", "random_weights")
    )
    mine, other_mask, other_weights = (found.bench.given[1] for found in (ticket, mask, weights))
    names = mine.masks.keys()
    initial = tiny(devkit).network.state_dict()
    assert names == other_mask.masks.keys() == other_weights.masks.keys()
    for name in names:
        assert int(mine.masks[name].sum()) == int(other_mask.masks[name].sum())
        assert torch.equal(other_mask.network.get_parameter(name), initial[name] * other_mask.masks[name])
        assert torch.equal(mine.masks[name], other_weights.masks[name])
        assert not torch.equal(mine.network.get_parameter(name), other_weights.network.get_parameter(name))
    assert any(not torch.equal(mine.masks[name], other_mask.masks[name]) for name in names)
    header, first, last = csv.reader((mask.bench.scratch / "files/rounds.csv").read_text().splitlines())
    assert header[1:] == ["mAP of the rounds", "mAP of random_mask"]
    assert (first[1], last[1]) == (first[2], "")


def test_a_ticket_of_filters_can_be_taken_out(one_shot: Callable[..., Found]) -> None:
    found = one_shot(masks="filters", ranking="global")
    ticket = found.ticket
    kept = UNITS["filters"].kept(ticket)
    assert sum(int(mask.sum()) for mask in kept.values()) == left_after(sum(len(mask) for mask in kept.values()), 0.6)
    smaller = Speedup().apply(ticket, NoOptions(), found.bench)
    for group, mask in kept.items():
        assert {smaller.architecture.output_channels[i] for i in group} == {int(mask.sum())}


def test_the_plan_keeps_as_many(devkit: Devkit, three_rounds: Found) -> None:
    plan = Ticket().plan(tiny(devkit), THREE_ROUNDS)
    assert {name: int(mask.sum()) for name, mask in plan.model.masks.items()} == {
        name: int(mask.sum()) for name, mask in three_rounds.ticket.masks.items()
    }


def test_what_does_not_fit_is_refused_before_the_first_training(devkit: Devkit) -> None:
    model = tiny(devkit)
    late = TicketOptions(rounds=1, rewind_to=Moment(step=7), training=SHORT)
    with pytest.raises(InputError, match=r"rewind_to\.step: 7 of a training that has 6 steps"):
        Ticket().check(model, late, ImageCounts(train=6, learnt=6, val=2))
    with pytest.raises(InputError, match="the curve over the rounds needs validation images"):
        Ticket().check(model, THREE_ROUNDS, ImageCounts(train=6, learnt=6, val=0))
    with pytest.raises(ValidationError, match="expected either `step` or `share`"):
        Moment(step=3, share=0.1)
    with pytest.raises(InputError, match="rounds: the last of 100 would mask nothing more"):
        Ticket().plan(model, TicketOptions(rounds=100, share=0.9, training=SHORT))
