"""`sparse_training` and what it leaves: budgets met after each cut, also where it was killed between two of them."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_training import KilledError, few_digits, small_bench

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.measure.size import macs, parameter_count
from detpress.plugins.sparse_training import SparseTraining, SparseTrainingOptions, budgets_of, trained
from detpress.plugins.train import TrainOptions
from detpress.pruning.budgets import Budget, Size, size_of
from detpress.pruning.sparsity import Sparsity
from detpress.pruning.sparsity_options import SparsityOptions
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig, TrainingOptions
from detpress.voc.devkit import Devkit

CONFIG = SparseTrainingOptions(
    parameters=0.6,
    macs=0.4,
    steps=[0.3],
    epochs=2,
    epochs_per_step=1,
    floor=2,
    exclude=["layers.13"],
    training=TrainingOptions(batch_size=4),
    statistics_images=8,
)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 8)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 96, width=0.1), seed=0)


def test_it_meets_both_budgets_and_ends_in_the_same_bits_when_it_is_killed_between_cuts(
    devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(model.network.state_dict())
    whole = SparseTraining().apply(model, CONFIG, small_bench(devkit, model, tmp_path / "whole"))
    assert whole.form is Form.DENSE
    assert parameter_count(whole.network) <= 0.4 * parameter_count(model.network)
    assert macs(whole.architecture) <= 0.6 * macs(model.architecture)
    channels = whole.architecture.output_channels
    assert channels[13] == model.architecture.output_channels[13], "excluded"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())

    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    steps = []

    def kill(what: str, done: int, total: int) -> None:
        steps.append(total)
        if steps == [4] * 4 + [2] * 2:  # two epochs of two steps, a cut, and the last step of the one epoch after it
            raise KilledError

    with pytest.raises(KilledError):
        SparseTraining().apply(model, CONFIG, small_bench(devkit, model, tmp_path / "killed", kill))
    seen = len(steps)
    again = SparseTraining().apply(model, CONFIG, small_bench(devkit, model, tmp_path / "killed", kill))
    assert set(steps[seen:]) == {2}, "the first training was remembered"
    tensors = again.network.state_dict()
    assert again.architecture == whole.architecture
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in whole.network.state_dict().items())


def test_the_penalties_shrink_what_a_plain_training_does_not(devkit: Devkit, model: Model, tmp_path: Path) -> None:
    def scales(penalties: SparsityOptions) -> float:
        config = CONFIG.model_copy(update={"penalties": penalties})
        scratch = tmp_path / f"{penalties.scales}-{penalties.groups}"
        network = trained(model, 2, config, small_bench(devkit, model, scratch)).network
        return sum(
            float(p.detach().abs().sum()) for name, p in network.named_parameters() if name.endswith("norm.weight")
        )

    plain = scales(SparsityOptions(scales=0.0, groups=0.0))
    assert scales(SparsityOptions(scales=10.0, groups=0.0)) < plain
    assert scales(SparsityOptions(scales=0.0, groups=10.0)) < plain


def test_what_is_excluded_is_not_drawn_to_zero(model: Model) -> None:
    drawn = []

    class Bench:
        """Whose training is one step of the penalties alone."""

        def fit(self, model: Model, training: TrainingConfig, objectives: tuple[Sparsity]) -> Model:
            network = copy.deepcopy(model.network)
            objectives[0].prepare(SimpleNamespace(architecture=model.architecture))
            sum(objectives[0].terms(SimpleNamespace(network=network)).values()).backward()
            drawn.extend(name for name, parameter in network.named_parameters() if parameter.grad is not None)
            return model

    trained(model, 1, CONFIG.model_copy(update={"exclude": ["layers.1?", "layers.2?"]}), Bench())
    assert {name for name in drawn if name.endswith("norm.weight")} == {
        f"layers.{i}.norm.weight" for i in (0, 2, 4, 6, 8)
    }


def test_a_cut_by_the_loss_and_refitted_weights_meets_the_budget_and_is_the_same_again(
    devkit: Devkit, model: Model, tmp_path: Path
) -> None:
    def cut(name: str, **options: Any) -> Model:
        config = SparseTrainingOptions(parameters=0.5, steps=[], epochs=0, statistics_images=8, **options)
        return SparseTraining().apply(model, config, small_bench(devkit, model, tmp_path / name))

    asked: dict[str, Any] = {"criterion": "taylor", "taylor_images": 8, "reconstruction_images": 4}
    one, again, by_norm = cut("one", **asked), cut("again", **asked), cut("norm")
    assert parameter_count(one.network) <= 0.5 * parameter_count(model.network)
    assert one.architecture == again.architecture
    assert one.architecture != by_norm.architecture
    tensors = again.network.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in one.network.state_dict().items())


WHOLE = Size(parameters=1000, macs=50_000)


def test_a_network_that_is_small_enough_is_refused_by_the_plan_but_in_a_chain_trained_and_kept_whole(
    model: Model, devkit: Devkit, tmp_path: Path
) -> None:
    whole = size_of(model.architecture)
    config = SparseTrainingOptions(max_macs=whole.macs, epochs=1, training=TrainingOptions(batch_size=4))
    has = f"{whole.parameters:,} parameters and {whole.macs:,} MACs"
    with pytest.raises(InputError, match=f"^max_macs: the network has {has}, no more$"):
        SparseTraining().plan(model, config)
    with pytest.raises(InputError, match=f"^max_parameters: the network has {has}, no more$"):
        SparseTraining().plan(model, SparseTrainingOptions(max_parameters=whole.parameters, max_macs=whole.macs))
    left = SparseTraining().apply(model, config, small_bench(devkit, model, tmp_path))
    assert left.architecture == model.architecture
    assert not torch.equal(next(left.network.parameters()), next(model.network.parameters())), "it was trained"
    assert left.notes == (f"nothing was cut: {has} are no more than may be left",)


def test_what_may_be_left_is_a_share_of_what_is_there(model: Model) -> None:
    cuts = SparseTrainingOptions(max_parameters=100, max_macs=20_000).cuts(WHOLE)
    assert cuts == SparseTrainingOptions(parameters=0.9, macs=0.6).cuts(WHOLE)
    assert SparseTrainingOptions(max_parameters=100, max_macs=50_000, steps=[]).cuts(WHOLE) == [(0.9, 0.0)]
    assert SparseTrainingOptions(max_parameters=1000).cuts(WHOLE) == [(0.0, 0.0)]
    whole = size_of(model.architecture)
    for share in (0.3, 0.5):
        [budget] = budgets_of(
            model.architecture,
            SparseTrainingOptions(
                max_parameters=int(share * whole.parameters), max_macs=int(share * whole.macs), steps=[]
            ),
        )
        assert budget == Budget(int(share * whole.parameters), int(share * whole.macs))


def test_two_budgets_are_approached_at_one_pace() -> None:
    cuts = SparseTrainingOptions(parameters=0.9, macs=0.6).cuts(WHOLE)
    assert cuts == [pytest.approx((0.5, 1 / 3)), pytest.approx((0.75, 0.5)), (0.9, 0.6)]
    assert SparseTrainingOptions(macs=0.988).cuts(WHOLE) == [(0, 0.5), (0, 0.75), (0, 0.9), (0, 0.988)]
    assert SparseTrainingOptions(parameters=0.3).cuts(WHOLE) == [(0.3, 0.0)]


def test_the_plan_says_what_is_left_without_training(model: Model) -> None:
    plan = SparseTraining().plan(model, CONFIG)
    assert parameter_count(plan.model.network) <= 0.4 * parameter_count(model.network)
    assert macs(plan.model.architecture) <= 0.6 * macs(model.architecture)
    assert "layers.2" in plan.layers
    assert "layers.13" not in plan.layers


def test_the_penalties_are_an_objective_of_any_training_by_their_name(model: Model) -> None:
    [named] = TrainOptions(epochs=1, objectives=[{"sparsity": {"scales": 0.01}}]).objectives
    objective = named.made()
    assert isinstance(objective, Sparsity)
    assert objective.config == SparsityOptions(scales=0.01, groups=1e-4)
    objective.check(model)


def test_it_trains_where_an_epoch_comes_before_a_cut() -> None:
    def trains(**options: Any) -> bool:
        return SparseTraining().trains(SparseTrainingOptions(**options))

    assert trains(parameters=0.4)
    assert trains(macs=0.6, epochs=0)
    assert not trains(macs=0.6, epochs=0, epochs_per_step=0)
    assert not trains(parameters=0.4, macs=0.5, epochs=0), "the first of the steps takes a half"
    assert trains(parameters=0.4, max_macs=1000, epochs=0), "which may be less than a half of them"


def test_what_cannot_be_done_is_refused_before(model: Model) -> None:
    with pytest.raises(
        ValidationError, match=r"expected a share that goes \(`parameters`, `macs`\), or what may be left"
    ):
        SparseTrainingOptions()
    with pytest.raises(
        ValidationError, match="expected `parameters` or `max_parameters`, and `macs` or `max_macs`, not both"
    ):
        SparseTrainingOptions(macs=0.5, max_macs=1000)
    with pytest.raises(ValidationError, match="taylor_images: not read: expected beside `criterion: taylor`"):
        SparseTrainingOptions(macs=0.5, taylor_images=32)
    without = {"macs": 0.5, "epochs": 0, "epochs_per_step": 0}
    for option in ("penalties", "training"):
        with pytest.raises(ValidationError, match=f"{option}: not read: expected beside `epochs` or"):
            SparseTrainingOptions(**without, **{option: {}})
    for option in ({"epochs_per_step": 4}, {"epochs": 0, "penalties": {}}):
        for steps in ([], [0.5, 0.75]):
            with pytest.raises(ValidationError, match=r"not read: expected beside `(steps|epochs)`"):
                SparseTrainingOptions(macs=0.5, steps=steps, **option)
    assert SparseTrainingOptions(**without, criterion="taylor", training={}), "whose loss weighs its terms by it"
    with pytest.raises(ValidationError, match="steps: expected shares between 0 and 1, each larger"):
        SparseTrainingOptions(macs=0.5, steps=[0.75, 0.5])
    with pytest.raises(InputError, match=r"^parameters: [\d,]+ are asked for, and [\d,]+ stay"):
        SparseTraining().plan(model, SparseTrainingOptions(parameters=0.999))
    with pytest.raises(InputError, match=r"^exclude: 'layers.99' matches no layer"):
        SparseTraining().plan(model, SparseTrainingOptions(parameters=0.5, exclude=["layers.99"]))
