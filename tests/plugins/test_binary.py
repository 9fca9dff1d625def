"""`binary`: one bit a weight in the bundle, and that a kill changes no bit."""

from pathlib import Path

import pytest
from small_training import KilledError, few_digits, same_bits, small_bench

from detpress.detector.architecture import build_architecture
from detpress.detector.folding import stored_weight
from detpress.detector.model import Model, new_model
from detpress.detector.network import convolution_of
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError
from detpress.plugins.binary import Connect, ConnectOptions, Net, OneBit, Weights, Xnor, XnorOptions
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig
from detpress.voc.devkit import Devkit

OPTIONS = {"training": TrainingConfig(epochs=2, batch_size=4), "statistics_images": 8}
PLUGINS = [
    (Connect(), ConnectOptions(stochastic=True, **OPTIONS)),
    (Net(), Net.Config(**OPTIONS)),
    (Weights(), Weights.Config(**OPTIONS)),
    (Xnor(), XnorOptions(input_scale=True, **OPTIONS)),
]


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("binary"), 8)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 96, width=0.1), seed=0)


def made(plugin: OneBit, config: object, devkit: Devkit, model: Model, folder: Path, *progress) -> Model:
    bench = small_bench(devkit, model, folder, *progress)
    bench.files = folder / "files"
    return plugin.apply(model, config, bench)


@pytest.mark.parametrize(("plugin", "config"), PLUGINS, ids=lambda one: type(one).__name__)
def test_killed_it_ends_in_the_same_bits_which_a_bundle_keeps(
    plugin: OneBit, config: object, devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(plugin, config, devkit, model, tmp_path / "whole")
    assert whole.form is plugin.returns
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []

    def kill(what: str, done: int, total: int) -> None:
        steps.extend([done] if what.startswith("epoch") else [])
        if len(steps) == 3:
            steps.append(0)
            raise KilledError

    with pytest.raises(KilledError):
        made(plugin, config, devkit, model, tmp_path / "killed", kill)
    again = made(plugin, config, devkit, model, tmp_path / "killed", kill)
    assert steps[4:] == [3, 4]
    assert same_bits(again, whole)
    save_bundle(whole, tmp_path / "bundle")
    assert same_bits(load_bundle(tmp_path / "bundle"), whole)
    first, *heads = 0, *model.architecture.heads
    for i in whole.encodings:
        weight = stored_weight(whole.own_network, i)
        if i in (first, *heads):
            assert weight.unique().numel() > 2 * len(weight)
        else:
            assert all(one.abs().unique().numel() == 1 for one in weight)
            assert convolution_of(whole.network, i).state_dict()["signs"].nbytes == -(-weight.numel() // 8)


def test_what_does_not_fit_is_refused_before(model: Model) -> None:
    plan = Connect().plan(model, ConnectOptions(exclude=["layers.2"], **OPTIONS))
    assert len(plan.layers) == len(model.encodings) - 2 - len(model.architecture.heads)
    with pytest.raises(InputError, match=r"^exclude: no convolution is left"):
        Xnor().plan(model, XnorOptions(exclude=["*"], **OPTIONS))
