"""low_rank: convolutions physically replaced by smaller ones, as plans, files and later stages see them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from small_training import KilledError, few_digits, same_bits, small_bench
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.channels import masks_of_filters
from detpress.detector.coupling import by_convolution
from detpress.detector.darknet import read_model, write_model
from detpress.detector.form import Form
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model, apply_masks, new_model
from detpress.detector.narrowing import narrow
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.onnx_model import onnx_model
from detpress.errors import InputError, StageError
from detpress.low_rank.replacing import replaceable, replaced_in
from detpress.measure.size import macs
from detpress.plugins.inc import StaticInt8, StaticInt8Options
from detpress.plugins.low_rank import Cp, LowRank, LowRankOptions, Spatial, Svd, Tucker
from detpress.pruning.filter_groups import prunable_groups
from detpress.run.workbench import StageWorkbench
from detpress.voc.devkit import Devkit

PLUGINS: dict[str, LowRank] = {"svd": Svd(), "spatial": Spatial(), "tucker": Tucker(), "cp": Cp()}
every = pytest.mark.parametrize("name", PLUGINS)


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 4)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    """With statistics of BatchNorm that are not 0 and 1, and biases in its heads."""
    made = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.1), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in made.network.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bias")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 * name.endswith("var"))
    return made


@pytest.fixture(scope="module")
def halved(devkit: Devkit, model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """By every plugin, at half the MACs."""
    config, folder = LowRankOptions(macs=0.5), tmp_path_factory.mktemp("halved")
    return {name: plugin.apply(model, config, bench(devkit, model, folder / name)) for name, plugin in PLUGINS.items()}


def bench(devkit: Devkit, model: Model, scratch: Path) -> StageWorkbench:
    made = small_bench(devkit, model, scratch)
    made.files = scratch / "files"
    return made


def maps(network: Network, images: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        found: tuple[Tensor, ...] = network(images)
    return found


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def of(model: Model) -> Network:
    assert isinstance(model.network, Network)
    return model.network


@every
def test_at_full_rank_the_network_gives_the_same_maps(model: Model, name: str) -> None:
    method, network = PLUGINS[name].method(), of(model)
    layers = replaceable(model.architecture, method)[:4]
    full = {
        i: tuple(len(each) for each in method.energies(network.get_parameter(f"layers.{i}.convolution.weight")))
        for i in layers
    }
    found = replaced_in(network, method, full, lambda *_: None)
    assert len(found.architecture.layers) > len(model.architecture.layers)
    for one, other in zip(maps(found, images()), maps(network, images()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@every
def test_half_of_the_macs_are_gone_and_not_one_too_few(model: Model, halved: dict[str, Model], name: str) -> None:
    found = halved[name]
    assert found.form is Form.DENSE
    assert 0.47 * macs(model.architecture) < macs(found.architecture) <= 0.5 * macs(model.architecture)
    maps(of(found), images())


@every
def test_the_plan_says_the_shapes_that_come_out(model: Model, halved: dict[str, Model], name: str) -> None:
    plan = PLUGINS[name].plan(model, LowRankOptions(macs=0.5))
    assert plan.model.architecture == halved[name].architecture
    assert plan.layers
    assert f"here {plan.layers[0]} " in plan.note


@every
def test_heads_and_what_is_excluded_stay(model: Model, name: str) -> None:
    plan = PLUGINS[name].plan(model, LowRankOptions(macs=0.3, exclude=["layers.0", "layers.1?"]))
    heads = {model.architecture.names[i] for i in model.architecture.heads}
    assert heads.isdisjoint(plan.layers)
    assert not any(one == "layers.0" or (len(one) == 9 and one.startswith("layers.1")) for one in plan.layers)
    assert heads <= set(plan.model.architecture.names)


@every
def test_it_is_the_same_again_and_the_given_model_stays(
    devkit: Devkit, model: Model, halved: dict[str, Model], name: str, tmp_path: Path
) -> None:
    before = {key: tensor.clone() for key, tensor in model.network.state_dict().items()}
    again = PLUGINS[name].apply(model, LowRankOptions(macs=0.5), bench(devkit, model, tmp_path / "again"))
    assert same_bits(again, halved[name])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.network.state_dict().items())
    rows = json.loads((tmp_path / "again/files/ranks.json").read_text())
    assert sum(row["macs_before"] - row["macs"] for row in rows) == macs(model.architecture) - macs(again.architecture)


@every
def test_a_share_of_energy_holds_for_every_layer(devkit: Devkit, model: Model, name: str, tmp_path: Path) -> None:
    found = PLUGINS[name].apply(model, LowRankOptions(energy=0.6), bench(devkit, model, tmp_path))
    rows = json.loads((tmp_path / "files/ranks.json").read_text())
    assert all(row["lost"] <= 0.4 for row in rows)
    assert macs(found.architecture) < macs(model.architecture)


@every
def test_a_bundle_is_read_back_and_onnx_gives_the_same_maps(
    halved: dict[str, Model], name: str, tmp_path: Path
) -> None:
    found = halved[name]
    save_bundle(found, tmp_path / "bundle")
    back = load_bundle(tmp_path / "bundle")
    assert back.architecture == found.architecture
    assert same_bits(back, found)
    session = onnxruntime.InferenceSession(onnx_model(found).SerializeToString())
    for one, other in zip(session.run(None, {"images": images().numpy()}), maps(of(found), images()), strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["svd", "tucker"])
def test_darknet_takes_what_is_square(halved: dict[str, Model], name: str, tmp_path: Path) -> None:
    found = halved[name]
    cfg, weights = tmp_path / "any.cfg", tmp_path / "any.weights"
    write_model(of(found), cfg, weights)
    back = read_model(cfg, weights, list(found.architecture.classes))
    for one, other in zip(maps(of(back), images()), maps(of(found), images()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["spatial", "cp"])
def test_darknet_has_no_columns_and_rows(halved: dict[str, Model], name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Darknet has square convolutions only"):
        write_model(of(halved[name]), tmp_path / "any.cfg", tmp_path / "any.weights")


@every
def test_inc_brings_it_to_int8(devkit: Devkit, halved: dict[str, Model], name: str, tmp_path: Path) -> None:
    given = halved[name]
    found = StaticInt8().apply(given, StaticInt8Options(calibration_images=4), bench(devkit, given, tmp_path))
    assert found.form is Form.INT8
    [expected, *_], [rounded, *_] = (maps(one.own_network, images()) for one in (given, found))
    assert (rounded - expected).square().mean() < 0.05 * expected.var()


@every
def test_its_ranks_are_filters_that_pruners_take_out(halved: dict[str, Model], name: str) -> None:
    """Half of every group, masked and taken out: the same maps."""
    architecture, network = halved[name].architecture, copy.deepcopy(of(halved[name]))
    new = {i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution) and not layer.bias}
    groups = prunable_groups(architecture)
    assert new
    assert new <= {i for group in groups for i in group}
    kept = by_convolution(architecture, {group: torch.arange(len(units)) % 2 == 0 for group, units in groups.items()})
    apply_masks(network, masks_of_filters(network, kept))
    smaller = narrow(network, kept)
    assert macs(smaller.architecture) < 0.6 * macs(architecture)
    for one, other in zip(maps(smaller, images()), maps(network, images()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_was_replaced_is_replaced_again(devkit: Devkit, halved: dict[str, Model], tmp_path: Path) -> None:
    found = Svd().apply(halved["spatial"], LowRankOptions(macs=0.6), bench(devkit, halved["spatial"], tmp_path))
    assert macs(found.architecture) <= 0.4 * macs(halved["spatial"].architecture)
    assert any(name.count(".") == 3 for name in found.architecture.names), "such as layers.2.0.1"
    maps(of(found), images())


class Clock:
    """A nanosecond each MAC, for so many networks."""

    def __init__(self) -> None:
        self.measured: list[float] = []
        self.networks = 100

    def latency_ms(self, model: Model, runtime: str) -> float:
        if len(self.measured) == self.networks:
            raise KilledError
        self.measured.append(macs(model.architecture) / 1e6)
        return self.measured[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(StageWorkbench, "latency_ms", lambda self, *options: made.latency_ms(*options))
    return made


def test_a_limit_of_time_is_met_by_measuring_each_network_once_also_across_kills(
    devkit: Devkit, model: Model, tmp_path: Path, clock: Clock
) -> None:
    whole = macs(model.architecture) / 1e6
    config = LowRankOptions(max_latency_ms={"torch": 0.6 * whole})
    clock.networks = 4
    with pytest.raises(KilledError):
        Svd().apply(model, config, bench(devkit, model, tmp_path))
    clock.networks = 100
    found = Svd().apply(model, config, bench(devkit, model, tmp_path))
    assert len(clock.measured) == len(set(clock.measured)) == 8, "the smallest, the whole, and six between"
    assert 0.55 * whole < macs(found.architecture) / 1e6 <= 0.6 * whole
    assert not Svd().repeats(config)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (1e-6, r"with every rank at 1 the network takes [\d.]+ ms in torch; it cannot be made as fast as asked for"),
        (1e6, "the network is as fast as `max_latency_ms` asks for: there is nothing to replace"),
    ],
)
def test_a_limit_of_time_that_cannot_be_met_or_is_met_ends_the_stage(
    devkit: Devkit, model: Model, tmp_path: Path, clock: Clock, limit: float, said: str
) -> None:
    with pytest.raises(StageError, match=said):
        Svd().apply(model, LowRankOptions(max_latency_ms={"torch": limit}), bench(devkit, model, tmp_path))


@pytest.mark.parametrize("options", [{}, {"energy": 0.9, "macs": 0.5}, {"macs": 0.5, "max_latency_ms": {"torch": 1.0}}])
def test_one_thing_decides_the_ranks(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expected one of `energy`, `macs` and `max_latency_ms`"):
        LowRankOptions(**options)


def test_what_cannot_be_done_is_refused_before(model: Model) -> None:
    with pytest.raises(InputError, match=r"^macs: at least [\d,]+ MACs stay with every rank at 1"):
        Svd().plan(model, LowRankOptions(macs=0.999))
    with pytest.raises(InputError, match=r"^exclude: 'layers.999' matches no layer"):
        Svd().plan(model, LowRankOptions(macs=0.5, exclude=["layers.999"]))
    with pytest.raises(InputError, match="no layer is left that would compute less"):
        Svd().plan(model, LowRankOptions(macs=0.5, exclude=["*"]))
    with pytest.raises(InputError, match=r"^energy: at 0.9999 no layer would compute less"):
        Svd().plan(model, LowRankOptions(energy=0.9999))


def test_layers_with_groups_stay(devkit: Devkit) -> None:
    mobile = new_model(build_architecture("mobile-yolov3", devkit.classes, 64, width=0.25), seed=0)
    for plugin in PLUGINS.values():
        layers = replaceable(mobile.architecture, plugin.method())
        assert all(mobile.architecture.layers[i].groups == 1 for i in layers)  # type: ignore[attr-defined]
