"""`continuous.sparsify`: what a training with gates leaves, also where it was killed in its second round."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_training import KilledError, few_digits, same_bits, small_bench

from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo, build_architecture
from detpress.detector.channels import masked_filters
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.plugins import continuous
from detpress.plugins.continuous import ContinuousOptions, Sparsify, last_round, share_removed, threshold_for, ticket_of
from detpress.training import module as training_module
from detpress.training.config import TrainingOptions
from detpress.voc.devkit import Devkit

FILTERS = ContinuousOptions(
    masks="filters", epochs=3, initial=-0.002, exclude=["layers.0"], training=TrainingOptions(batch_size=4)
)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 8)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 96, width=0.1), seed=0)


def test_it_ends_in_the_same_bits_when_it_is_killed_in_its_second_round(
    devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(model.network.state_dict())
    config = FILTERS.model_copy(update={"rounds": 2, "rewind": "every_round"})
    whole = Sparsify().apply(model, config, small_bench(devkit, model, tmp_path / "whole"))
    assert whole.form is Form.MASKED
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())

    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 11:  # three epochs of two steps, then two epochs and a step
            raise KilledError

    with pytest.raises(KilledError):
        Sparsify().apply(model, config, small_bench(devkit, model, tmp_path / "killed", kill))
    again = Sparsify().apply(model, config, small_bench(devkit, model, tmp_path / "killed", kill))
    assert steps[11:] == [5, 6], "of the second round, from its checkpoint on"
    assert same_bits(again, whole)


def test_residual_partners_lose_the_same_filters_and_what_is_shut_is_zero(tmp_path: Path, devkit: Devkit) -> None:
    classes = tuple(devkit.classes)
    head = Convolution(5 + len(classes), 1, batch_normalize=False, activation="linear")
    layers = (Convolution(8, 3, stride=8), Convolution(8, 1), Convolution(8, 3), Shortcut(0), head, Yolo(((30, 30),)))
    residual = new_model(Architecture("any", layers, classes, 64), seed=0)
    config = FILTERS.model_copy(update={"epochs": 2, "exclude": []})
    ticket = Sparsify().apply(residual, config, small_bench(devkit, residual, tmp_path / "filters"))
    masked = masked_filters(ticket.architecture, ticket.masks)
    assert masked[0].any()
    assert torch.equal(masked[0], masked[2])
    parameters = dict(ticket.network.named_parameters())
    assert all(not parameters[name][~mask].any() for name, mask in ticket.masks.items())


def test_a_ticket_of_weights_is_the_early_ones_scaled_where_gates_are_open(
    devkit: Devkit, model: Model, tmp_path: Path
) -> None:
    options = {"masks": "weights", "epochs": 2, "initial": 0.0, "training": FILTERS.training}
    early = ContinuousOptions(**options, rewind_epoch=0)
    ticket = Sparsify().apply(model, early, small_bench(devkit, model, tmp_path / "weights"))
    name = "layers.4.convolution.weight"
    mask, before = ticket.masks[name], model.network.get_parameter(name)
    assert 0 < int(mask.sum()) < mask.numel()
    torch.testing.assert_close(ticket.network.get_parameter(name), 2 * before * mask)
    assert not any(name.startswith(f"layers.{i}.") for i in model.architecture.heads for name in ticket.masks)
    scales = "layers.4.norm.weight"
    assert torch.equal(ticket.network.get_parameter(scales), model.network.get_parameter(scales))
    never = ContinuousOptions(**options, rewind="never")
    trained = Sparsify().apply(model, never, small_bench(devkit, model, tmp_path / "weights"))
    assert torch.equal(trained.masks[name], mask)
    assert not torch.allclose(trained.network.get_parameter(name), ticket.network.get_parameter(name))


def test_a_large_penalty_shuts_more_gates(devkit: Devkit, model: Model, tmp_path: Path) -> None:
    def still_open(penalty: float) -> int:
        config = FILTERS.model_copy(update={"penalty": penalty, "initial": 0.01})
        ticket = Sparsify().apply(model, config, small_bench(devkit, model, tmp_path / str(penalty)))
        return sum(int(mask.sum()) for mask in ticket.masks.values())

    assert still_open(1.0) < still_open(0.0)


def test_a_share_of_the_parameters_is_searched_for_and_gates_decide_what_two_trainings_leave_open(
    devkit: Devkit, model: Model, tmp_path: Path
) -> None:
    options = FILTERS.model_dump() | {"epochs": 2, "parameters": 0.3, "trials": 2, "tolerance": 0.001}
    config = ContinuousOptions(**options)
    bench = small_bench(devkit, model, tmp_path / "searched")
    ticket = Sparsify().apply(model, config, bench)
    reached_by = {}  # by the strengths of the two trainings, which are remembered
    for strength in (1.0, 1 / 3):
        left = ticket_of(last_round(strength, model, config, bench), model, config.at_strength(strength))
        reached_by[strength] = share_removed(model, left, config)
    closest = min(reached_by, key=lambda strength: abs(reached_by[strength] - 0.3))
    assert reached_by[closest] > 0.301, "two trainings were not enough"
    setting, last = config.at_strength(closest), last_round(closest, model, config, bench)

    removed = share_removed(model, ticket, config)
    assert 0.3 <= removed < 0.31
    note, _, by = ticket.notes[-1].partition("; ")
    assert note == (
        f"{reached_by[closest]:.4f} removed, 0.3 asked for: the closest of 2 trainings, "
        f"with `initial: {setting.initial:.4g}` and `penalty: {setting.penalty:.4g}`"
    )
    assert by.startswith(f"{removed:.4f} by -")
    assert by.endswith(" in place of 0 as what opens a gate")

    every = torch.cat([s.flatten() for s in last.values.values()]).sort().values
    threshold = threshold_for(0.3, last, model, setting)
    one_less = every[every < threshold].max().item()
    assert share_removed(model, ticket_of(last, model, setting, one_less), config) < 0.3, (
        "not one gate too many is shut"
    )


@pytest.mark.parametrize("masks", ["filters", "weights"])
def test_a_training_in_which_no_gate_shuts_removes_nothing_and_the_search_goes_on(
    devkit: Devkit, model: Model, tmp_path: Path, masks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def half_open(strength: float, model: Model, config: ContinuousOptions, bench: Any) -> continuous.Round:
        tried.append(strength)
        gates, _ = continuous.gates_of(model, config)
        lowest = 1.0 if strength == 1 else -1.0
        return continuous.Round(
            model, {name: torch.linspace(lowest, 2, s.numel()).view_as(s) for name, s in gates.items()}, model
        )

    monkeypatch.setattr(continuous, "last_round", half_open)
    config = ContinuousOptions(masks=masks, epochs=2, parameters=0.2, trials=2)
    bench = small_bench(devkit, model, tmp_path)
    removed = share_removed(model, Sparsify().apply(model, config, bench), config)
    assert tried[:2] == [1.0, 3.0]
    assert 0.2 <= removed < 0.25
    only_open = config.model_copy(update={"trials": 1})
    assert 0.2 <= share_removed(model, Sparsify().apply(model, only_open, bench), only_open) < 0.25


def test_goals_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected `parameters` or `macs`, not both"):
        ContinuousOptions(epochs=2, parameters=0.5, macs=0.5)
    with pytest.raises(ValidationError, match="macs: expected `masks: filters`"):
        ContinuousOptions(epochs=2, macs=0.5)
    with pytest.raises(ValidationError, match="initial: expected below 0"):
        ContinuousOptions(epochs=2, parameters=0.5, initial=0.1)


def test_a_pattern_that_matches_nothing_is_refused_before(model: Model) -> None:
    with pytest.raises(InputError, match=r"^exclude: 'layers.99' matches no layer"):
        Sparsify().plan(model, ContinuousOptions(epochs=2, exclude=["layers.99"]))
    with pytest.raises(InputError, match=r"^exclude: nothing is left"):
        Sparsify().plan(model, ContinuousOptions(epochs=2, exclude=["*"]))


@pytest.mark.parametrize("masks", ["filters", "weights"])
def test_more_than_can_go_is_refused_before_the_first_training(model: Model, masks: str) -> None:
    config = ContinuousOptions(masks=masks, epochs=2, parameters=0.9999)
    with pytest.raises(InputError, match=f"parameters: 0.9999 are asked for, and .* keeps one of its {masks}"):
        Sparsify().plan(model, config)


def test_an_early_epoch_that_no_round_reaches_or_nothing_goes_back_to_is_refused() -> None:
    with pytest.raises(ValidationError, match="rewind_epoch: expected at most `epochs`, 2, got 5"):
        ContinuousOptions(epochs=2, rewind_epoch=5)
    with pytest.raises(ValidationError, match="rewind_epoch: expected only where weights are set back, not with `rew"):
        ContinuousOptions(epochs=2, rewind_epoch=1, rewind="never")
