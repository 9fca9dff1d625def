"""Layers that a training leaves as they are, and a backbone that learns more slowly than the heads."""

import copy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from small_training import KilledError, few_digits, same_bits, small_bench

from detpress.detector.architecture import build_architecture
from detpress.detector.layer_patterns import spelled
from detpress.detector.model import Model, new_model
from detpress.errors import InputError
from detpress.plugins.inc_qat import QatOptions
from detpress.plugins.nni_search_space import NASOptions
from detpress.plugins.sparse_training import SparseTrainingOptions
from detpress.training import module as training_module
from detpress.training.config import Augmentation, TrainingConfig, TrainingOptions, check_training
from detpress.training.image_counts import ImageCounts
from detpress.training.parts import Frozen, at_backbone_rate
from detpress.training.step import new_optimizer
from detpress.voc.devkit import Devkit

CONFIG = TrainingConfig(epochs=3, batch_size=4, frozen=["layers.?"], backbone_rate=0.1)  # of eight images: six steps


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("frozen"), 8)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.1), seed=0)


@pytest.fixture(scope="module")
def trained(devkit: Devkit, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return small_bench(devkit, model, tmp_path_factory.mktemp("whole")).fit(model, CONFIG)


def test_frozen_layers_keep_weights_and_statistics_bit_for_bit_and_all_others_learn(
    model: Model, trained: Model
) -> None:
    after = trained.network.state_dict()
    frozen = tuple(f"layers.{layer}." for layer in range(10))
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(after[name], tensor) is name.startswith(frozen), name


def test_killed_and_gone_on_the_weights_are_the_same(
    devkit: Devkit, model: Model, trained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 5:
            raise KilledError

    with pytest.raises(KilledError):
        small_bench(devkit, model, tmp_path / "killed", kill).fit(model, CONFIG)
    bench = small_bench(devkit, model, tmp_path / "killed", kill)
    again = bench.fit(model, CONFIG)
    assert steps[5:] == [5, 6], "from the checkpoint after two epochs"
    assert same_bits(again, trained)
    assert bench.notes == ["frozen layers.0, 2, 4, 6, 8"]


def test_names_in_a_row_are_spelled_as_a_range() -> None:
    assert spelled(["layers.0", "layers.1", "layers.2", "layers.4"]) == "layers.0-2, 4"
    assert spelled(["layers.4.0", "layers.4.1", "layers.5", "stem"]) == "layers.4.0-1, layers.5, stem"


def test_the_heads_learn_at_the_learning_rate_and_the_backbone_at_its_share(model: Model) -> None:
    network, config = model.network, TrainingConfig(epochs=1, learning_rate=0.01, backbone_rate=0.25)
    slower = at_backbone_rate(network, model.architecture, config)
    optimizer = new_optimizer(network.parameters(), config, slower=slower)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    heads = tuple(f"layers.{head}." for head in model.architecture.heads)
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (0.01 if name.startswith(heads) else 0.0025), name
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in network.parameters() if p.ndim > 1}


def test_with_one_rate_the_optimizer_is_what_it_was(model: Model) -> None:
    config = TrainingConfig(epochs=1)
    assert not at_backbone_rate(model.network, model.architecture, config)
    assert len(new_optimizer(model.network.parameters(), config).param_groups) == 2


def test_patterns_that_match_no_layer_or_all_are_refused_by_the_options_name(model: Model) -> None:
    images = ImageCounts("train", 8, 8, 0)
    unknown = SparseTrainingOptions(macs=0.5, training=TrainingOptions(frozen=["layers.0", "layers.99"]))
    with pytest.raises(InputError, match=r"^training\.frozen: 'layers\.99' matches no layer; did you mean 'layers\.9'"):
        check_training(unknown, model.architecture, images)
    with pytest.raises(InputError, match=r"^frozen: all layers; expected some that are left to learn"):
        check_training(TrainingConfig(epochs=1, frozen=["*"]), model.architecture, images)


def test_images_made_of_several_are_refused_in_batches_of_one(model: Model) -> None:
    config = TrainingConfig(epochs=1, batch_size=1, augmentation=Augmentation(mosaic=0.5))
    with pytest.raises(
        InputError, match=r"^augmentation\.mosaic: mixes a batch's images; expected `batch_size` above 1"
    ):
        check_training(config, model.architecture, ImageCounts("train", 8, 8, 0))


def test_a_pattern_whose_layer_was_taken_out_since_holds_nothing(model: Model) -> None:
    network = copy.deepcopy(model.network)
    [module] = Frozen(network, model.architecture, ["layers.0", "layers.99"]).modules
    assert module is network.get_submodule("layers.0")
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.requires_grad for parameter in network.get_submodule("layers.2").parameters())


def test_where_layers_cannot_be_held_the_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="the exported network has no layers that could be held"):
        QatOptions(epochs=1, frozen=["layers.0"])
    with pytest.raises(ValidationError, match="final: expected neither `frozen` nor `backbone_rate`"):
        NASOptions(final=CONFIG)
