"""NNI's quantizers on a small network and generated digits: what comes back is what NNI computes, in plain data."""

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from seen_images import let_see
from small_training import KilledError, few_digits
from torch import Tensor, nn

from detpress.adapters import nni_quantize, nni_quantizers
from detpress.adapters.nni_quantize import LayerTargets, quantize
from detpress.adapters.nni_quantizers import Method, least_squares_grid
from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.simulated import Codes, Simulated
from detpress.errors import StageError
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig
from detpress.voc.devkit import Devkit

LOG = logging.getLogger("tests.nni_quantize")
SHORT = TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-3)
STEPS = 6  # twelve images, two epochs
TARGETS: dict[Method, LayerTargets] = {
    "ptq": LayerTargets(8, 8, per_channel=True),
    "qat": LayerTargets(4, 8, per_channel=True),
    "lsq": LayerTargets(4, 4, activation_scheme="symmetric", per_channel=True),
    "lsq_plus": LayerTargets(3, 4),
    "dorefa": LayerTargets(2, 8, weight_scheme="affine"),
    "bnn": LayerTargets(1, 1),
}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return few_digits(tmp_path_factory.mktemp("digits"), 12)


@pytest.fixture(scope="module")
def model(devkit: Devkit) -> Model:
    """Random weights whose BatchNorms have seen images, some of them turning the sign."""
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.0625), seed=0)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 3, 64, 64, generator=generator)
    for norm in model.network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, -1.5, 1.5, generator=generator)
    let_see(model.network, images)
    return model


def workbench(devkit: Devkit, model: Model, scratch: Path, stop_at: int | None = None) -> StageWorkbench:
    def progress(what: str, done: int, total: int) -> None:
        if done == stop_at:
            raise KilledError

    scratch.mkdir(exist_ok=True)
    data = Data(root=str(devkit.root))
    return StageWorkbench(0, scratch, LOG, progress, devkit, data, Measure(), architecture=model.architecture)


def inner_layers(model: Model) -> list[int]:
    heads = model.architecture.heads
    return [i for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution) if i not in heads][
        1:
    ]


def simulated_layers(network: Network) -> dict[int, Simulated]:
    return {i: layer for i, layer in network.encodings.items() if isinstance(layer, Simulated)}


def quantized(method: Method, model: Model, bench: StageWorkbench, **changes: object) -> Network:
    assert isinstance(model.network, Network)
    layers = dict.fromkeys(inner_layers(model), replace(TARGETS[method], **changes))
    return quantize(method, model.network, layers, bench.calibration(8), None if method == "ptq" else SHORT, bench)


CASES: list[tuple[Method, dict[str, object]]] = [
    ("ptq", {}),
    ("ptq", {"weight_scheme": "affine", "activation_bits": None, "per_channel": False}),
    ("qat", {}),
    ("qat", {"weight_scheme": "affine", "weight_bits": 8, "activation_scheme": "symmetric", "per_channel": False}),
    ("qat", {"weight_scheme": "affine", "weight_bits": 1, "activation_bits": 1}),
    ("lsq", {}),
    ("lsq", {"per_channel": False, "activation_bits": None}),
    ("lsq_plus", {}),
    ("lsq_plus", {"weight_scheme": "affine", "weight_bits": 1, "per_channel": True}),
    ("dorefa", {}),
    ("dorefa", {"weight_bits": 8, "activation_bits": None}),
    ("dorefa", {"weight_bits": 1}),
    ("bnn", {}),
    ("bnn", {"activation_bits": None}),
]


@pytest.mark.parametrize(("method", "changes"), CASES)
def test_every_layer_computes_what_nnis_wrapped_layer_does(
    method: Method, changes: dict[str, object], devkit: Devkit, model: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The comparison that `quantize` makes before it returns, here to a tenth of what it tolerates."""
    monkeypatch.setattr(nni_quantize, "TOLERANCE", 1e-5)
    before = copy.deepcopy(model.network.state_dict())
    network = quantized(method, model, workbench(devkit, model, tmp_path), **changes)
    targets = replace(TARGETS[method], **changes)
    assert set(simulated_layers(network)) == set(inner_layers(model))
    for i, layer in simulated_layers(network).items():
        weight = network.get_buffer(f"layers.{i}.convolution.weight")
        values = 2**targets.weight_bits - (targets.weight_scheme == "symmetric" and method != "bnn")
        assert all(len(filters.unique()) <= values for filters in weight)
        assert len(weight.unique()) > 1
        assert layer.weight_bits == targets.weight_bits
        assert (layer.input.bits if layer.input else None) == targets.activation_bits
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


def test_the_model_has_nothing_of_nni(devkit: Devkit, model: Model, tmp_path: Path) -> None:
    network = quantized("qat", model, workbench(devkit, model, tmp_path))
    for module in network.modules():
        assert type(module).__module__.split(".")[0] in ("torch", "detpress")
        assert "forward" not in vars(module)
        assert not module._forward_hooks
    save_bundle(model.with_network(network, Form.SIMULATED), tmp_path / "bundle")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other in zip(network(images), load_bundle(tmp_path / "bundle").network(images), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["qat", "lsq", "lsq_plus", "dorefa", "bnn"])
def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    method: Method, devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    whole = quantized(method, model, workbench(devkit, model, tmp_path / "whole"))
    with pytest.raises(KilledError):
        quantized(method, model, workbench(devkit, model, tmp_path / "killed", stop_at=STEPS - 1))
    again = quantized(method, model, workbench(devkit, model, tmp_path / "killed"))
    assert again.encodings == whole.encodings
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_ptqs_ranges_are_those_of_the_images_and_of_the_folded_weights(
    devkit: Devkit, model: Model, tmp_path: Path
) -> None:
    bench = workbench(devkit, model, tmp_path)
    network = quantized("ptq", model, bench)
    first = inner_layers(model)[0]
    seen: list[Tensor] = []
    hook = model.network.get_submodule(f"layers.{first}").register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    with torch.no_grad():
        model.network(bench.calibration(8))
    hook.remove()
    grid = simulated_layers(network)[first].input
    assert grid is not None
    low, high = (grid.lowest - grid.zero_point) * grid.scale, (grid.highest - grid.zero_point) * grid.scale
    assert low == pytest.approx(float(seen[0].min()), abs=grid.scale)
    assert high == pytest.approx(float(seen[0].max()), abs=grid.scale)
    norm = model.network.get_submodule(f"layers.{first}.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    weight = model.network.get_parameter(f"layers.{first}.convolution.weight")
    folded = weight * (norm.weight / torch.sqrt(norm.running_var + norm.eps))[:, None, None, None]
    scale = network.get_buffer(f"layers.{first}.convolution.weight_scale")
    torch.testing.assert_close(scale, folded.abs().flatten(1).amax(dim=1) / 127, rtol=1e-5, atol=0)


def test_qat_trains_the_shift_of_batch_norm(devkit: Devkit, model: Model, tmp_path: Path) -> None:
    """To which NNI's fusion with a convolution without bias gives no gradient."""
    network = quantized("qat", model, workbench(devkit, model, tmp_path), weight_bits=8, activation_bits=None)
    untrained = quantized("ptq", model, workbench(devkit, model, tmp_path), activation_bits=None)
    for i in inner_layers(model):
        name = f"layers.{i}.convolution.bias"
        assert not torch.allclose(network.get_buffer(name), untrained.get_buffer(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["lsq", "lsq_plus"])
def test_learned_scales_begin_at_the_papers_values_and_move_in_proportion(
    method: Method, devkit: Devkit, model: Model, tmp_path: Path
) -> None:
    bench = workbench(devkit, model, tmp_path)
    images = bench.calibration(8)
    targets = replace(TARGETS[method], per_channel=False)
    layers = dict.fromkeys(inner_layers(model), targets)
    wrapped = copy.deepcopy(model.network)
    config = nni_quantize._config_list(method, layers, [])
    quantizer = nni_quantize.QUANTIZERS[method](wrapped, config, nni_quantize._calibration(wrapped, images))
    quantizer.track_forward(images)
    begun = {i: quantizer._target_spaces[f"layers.{i}.convolution"] for i in layers}
    for i in layers:
        weight = model.network.get_parameter(f"layers.{i}.convolution.weight").detach()
        if method == "lsq":
            expected = 2 * weight.abs().mean() / (2 ** (targets.weight_bits - 1) - 1) ** 0.5
        else:
            expected = (weight.mean().abs() + 3 * weight.std(unbiased=False)) / 2 ** (targets.weight_bits - 1)
        assert begun[i]["weight"].scale.item() == pytest.approx(float(expected), rel=1e-5)
        assert begun[i]["weight"].zero_point.item() == 0
    trained = quantized(method, model, bench, per_channel=False)
    for i, layer in simulated_layers(trained).items():
        begin = begun[i]["_input_0"].scale.item()
        assert layer.input is not None
        assert layer.input.scale != begin
        assert layer.input.scale == pytest.approx(begin, rel=STEPS * SHORT.learning_rate)


def test_a_scale_that_is_none_is_refused(
    devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nni_quantizers, "_shaped", lambda space, values: -torch.ones(1))
    with pytest.raises(StageError, match=r"layers\.\d+: a scale of its (weight|input) was trained to -"):
        quantized("lsq", model, workbench(devkit, model, tmp_path), per_channel=False)


def test_a_network_that_computes_something_else_is_refused(
    devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = nni_quantize._codes

    def stretched(*arguments: Any) -> Codes:
        codes = original(*arguments)
        return replace(codes, scale=1.01 * codes.scale)

    monkeypatch.setattr(nni_quantize, "_codes", stretched)
    with pytest.raises(StageError, match=r"the simulated network differs from NNI's by 0\.0\d+ of a layer's output"):
        quantized("ptq", model, workbench(devkit, model, tmp_path))


def test_the_least_squares_grid_leaves_a_lone_outlier_outside() -> None:
    """Two bits for numbers between -1 and 2: steps of 1, unless one number of 30 stretches them."""
    rows = torch.linspace(-1, 2, 1000).repeat(2, 1)
    rows[1, 0] = 30
    scale, zero_point = least_squares_grid(rows, 0, 3)
    assert scale[0] == pytest.approx(0.8, abs=0.2)
    assert zero_point[0] == pytest.approx(1.0, abs=0.01)
    assert scale[1] < 5
    codes = torch.round(torch.clamp(rows / scale[:, None] + zero_point[:, None], 0, 3))
    error = ((codes - zero_point[:, None]) * scale[:, None] - rows).square().sum(dim=1)
    whole = (rows.amax(dim=1) - rows.amin(dim=1)) / 3
    at_whole = torch.round(torch.clamp((rows - rows.amin(dim=1, keepdim=True)) / whole[:, None], 0, 3))
    assert (error <= (at_whole * whole[:, None] + rows.amin(dim=1, keepdim=True) - rows).square().sum(dim=1)).all()


def test_messages_go_to_the_log_and_the_global_generator_is_left_alone(
    devkit: Devkit, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    state = torch.random.get_rng_state()
    quantized("dorefa", model, workbench(devkit, model, tmp_path / "scratch"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    assert list(here.iterdir()) == []


def test_convolutions_with_neither_bias_nor_batchnorm_are_quantized_too(devkit: Devkit, tmp_path: Path) -> None:
    """YOLO Nano's attention has two of them."""
    model = new_model(build_architecture("yolo-nano", devkit.classes, 64, width=0.125), seed=0)
    let_see(model.network, torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    bare = [
        i
        for i, layer in enumerate(model.architecture.layers)
        if isinstance(layer, Convolution) and not layer.batch_normalize and i not in model.architecture.heads
    ]
    network = quantized("ptq", model, workbench(devkit, model, tmp_path / "work"))
    assert bare
    assert set(bare) <= simulated_layers(network).keys()
