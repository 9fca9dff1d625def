"""NNI's compressors trained by the one trainer: the real engine on a small network and generated digits."""

import copy
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.compression.pruning import AGPPruner, L1NormPruner, MovementPruner, SlimPruner, TaylorPruner
from nni.compression.quantization import LsqQuantizer, QATQuantizer
from torch import Tensor, nn

from detpress.adapters.nni_training import WorkbenchEvaluator, without_wrappers
from detpress.detector.architecture import Architecture, Convolution, build_architecture
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.errors import InputError, StageError
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig
from detpress.training.objective import Objective, TrainingStart
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits

LOG = logging.getLogger("tests.nni_training")
SHORT = TrainingConfig(epochs=3, batch_size=4)
STEPS = 9  # twelve images, three epochs


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    root = tmp_path_factory.mktemp("digits") / "devkit"
    write_digits(root, {"train": 12})
    return open_devkit(root)


def small_model(devkit: Devkit) -> Model:
    return new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.0625), seed=0)


def workbench(
    devkit: Devkit, scratch: Path, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> StageWorkbench:
    scratch.mkdir(exist_ok=True)
    return StageWorkbench(0, scratch, LOG, progress, devkit, Data(root=str(devkit.root)), Measure())


def convolutions(architecture: Architecture) -> list[str]:
    return [
        f"layers.{i}.convolution"
        for i, layer in enumerate(architecture.layers)
        if isinstance(layer, Convolution) and i not in architecture.heads
    ]


def half_of_each(layers: list[str], **more: Any) -> list[dict[str, Any]]:
    return [{"op_names": [layer], "target_names": ["weight"], "sparse_ratio": 0.5, **more} for layer in layers]


def taylor(network: nn.Module, names: list[str], evaluator: WorkbenchEvaluator) -> Any:
    pruner = TaylorPruner(network, half_of_each(names), evaluator, evaluator.steps)
    pruner.compress()
    return pruner


def agp_of_l1norm(network: nn.Module, names: list[str], evaluator: WorkbenchEvaluator) -> Any:
    pruner = AGPPruner(L1NormPruner(network, half_of_each(names)), interval_steps=2, total_times=4, evaluator=evaluator)
    pruner.compress(evaluator.steps, None)
    return pruner


def slim(network: nn.Module, names: list[str], evaluator: WorkbenchEvaluator) -> Any:
    norms = [name.replace("convolution", "norm") for name in names]
    pruner = SlimPruner(network, half_of_each(norms), evaluator, evaluator.steps, regular_scale=100.0)
    pruner.compress()
    return pruner


def movement(network: nn.Module, names: list[str], evaluator: WorkbenchEvaluator) -> Any:
    config = half_of_each(names, granularity="out_channel")
    pruner = MovementPruner(network, config, evaluator, warmup_step=2, cooldown_begin_step=7)
    pruner.compress(evaluator.steps, None)
    return pruner


def qat(network: nn.Module, names: list[str], evaluator: WorkbenchEvaluator) -> Any:
    setting = {"target_names": ["weight", "_output_"], "quant_dtype": "int8", "granularity": "default"}
    quantizer = QATQuantizer(network, [{"op_names": [name], **setting} for name in names], evaluator, 2)
    quantizer.compress(None, evaluator.training.epochs)
    return quantizer


def lsq(network: nn.Module, names: list[str], evaluator: WorkbenchEvaluator) -> Any:
    setting = {"target_names": ["weight"], "quant_dtype": "int8", "quant_scheme": "symmetric"}
    config = [{"op_names": [name], **setting, "granularity": "out_channel"} for name in names]
    quantizer = LsqQuantizer(network, config, evaluator)
    quantizer.compress(None, evaluator.training.epochs)
    return quantizer


METHODS = [taylor, agp_of_l1norm, slim, movement, qat, lsq]


def compressed(method: Callable[..., Any], model: Model, bench: StageWorkbench) -> tuple[Any, dict[str, Tensor]]:
    """The compressor after it has trained, and all tensors of its network while it is wrapped."""
    network = copy.deepcopy(model.network).requires_grad_(True)
    evaluator = WorkbenchEvaluator(network, model.architecture, SHORT, bench)
    compressor = method(network, convolutions(model.architecture), evaluator)
    return compressor, {name: tensor.clone() for name, tensor in network.state_dict().items()}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_stopped_goes_on_to_the_same_bits(
    method: Callable[..., Any], devkit: Devkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_in_the_last_epoch(what: str, done: int, total: int) -> None:
        if done == STEPS - 1:
            raise KilledError

    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    model = small_model(devkit)
    _, tensors = compressed(method, model, workbench(devkit, tmp_path / "whole"))
    with pytest.raises(KilledError):
        compressed(method, model, workbench(devkit, tmp_path / "killed", stop_in_the_last_epoch))
    steps: list[int] = []
    bench = workbench(devkit, tmp_path / "killed", lambda what, done, total: steps.append(done))
    _, again = compressed(method, model, bench)
    assert steps == [7, 8, 9]  # the epochs before were kept
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert any("mask" in name or "scale" in name for name in tensors)
    names = tmp_path / "whole" / "fit-0" / "training.csv", tmp_path / "killed" / "fit-0" / "training.csv"
    assert names[0].read_text() == names[1].read_text()


def test_taylor_scores_by_the_gradients_of_the_detection_loss(devkit: Devkit, tmp_path: Path) -> None:
    """NNI's sums of (weight * gradient)^2, and the masks that they give, from a loop of our own around the trainer."""
    model = small_model(devkit)
    pruner, _ = compressed(taylor, model, workbench(devkit, tmp_path / "nni"))
    names = [f"{name}.weight" for name in convolutions(model.architecture)]
    sums: dict[str, Tensor] = {}

    class Sums(Objective):
        def prepare(self, start: TrainingStart) -> None:
            for name in names:
                parameter = start.network.get_parameter(name)
                sums[name] = torch.zeros_like(parameter)
                parameter.register_hook(partial(self.add_up, name, parameter))

        def add_up(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
            sums[name] += (parameter.detach() * gradient) ** 2

    network = copy.deepcopy(model.network).requires_grad_(True)
    workbench(devkit, tmp_path / "own").train(network, model.architecture, SHORT, (Sums(),))
    for name in names:
        score = sums[name].flatten(1).sum(1)
        kept = pruner.get_masks()[name.removesuffix(".weight")]["weight"].flatten(1).any(1)
        expected = torch.ones(len(score), dtype=torch.bool)
        expected[score.argsort()[: len(score) // 2]] = False
        assert torch.equal(kept, expected), name


def test_slims_factors_shrink_under_their_penalty(devkit: Devkit, tmp_path: Path) -> None:
    """The factors' own optimizer steps between the gradients of a batch and the step of the weights."""
    _, tensors = compressed(slim, small_model(devkit), workbench(devkit, tmp_path))
    factors = torch.cat([tensor for name, tensor in tensors.items() if name.endswith("slim_factor")])
    assert factors.max() < 1
    assert 1 - factors.min() > 0.05  # nine steps of Adam, a hundredth each


def test_the_result_has_nothing_of_nni_and_the_weights_that_were_trained(devkit: Devkit, tmp_path: Path) -> None:
    model = small_model(devkit)
    before = copy.deepcopy(model.network.state_dict())
    network = copy.deepcopy(model.network).requires_grad_(True)
    pruner = taylor(
        network,
        convolutions(model.architecture),
        WorkbenchEvaluator(network, model.architecture, SHORT, workbench(devkit, tmp_path)),
    )
    pruner.unwrap_model()
    clean = without_wrappers(network, model.architecture)
    assert type(clean) is Network
    for module in clean.modules():
        assert type(module).__module__.split(".")[0] in ("torch", "detpress")
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert not clean.training
    assert all(not parameter._backward_hooks for parameter in clean.parameters())
    assert not torch.equal(clean.state_dict()["layers.0.convolution.weight"], before["layers.0.convolution.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


def test_a_compressor_that_takes_other_steps_than_planned_is_refused(devkit: Devkit, tmp_path: Path) -> None:
    model = small_model(devkit)
    network = copy.deepcopy(model.network).requires_grad_(True)
    evaluator = WorkbenchEvaluator(network, model.architecture, SHORT, workbench(devkit, tmp_path))
    pruner = TaylorPruner(network, half_of_each(["layers.0.convolution"]), evaluator, 5)
    with pytest.raises(StageError, match="NNI asked for 5 steps or None epochs of training; 9 steps in 3 epochs"):
        pruner.compress()


def test_many_devices_are_refused(devkit: Devkit, tmp_path: Path) -> None:
    model = small_model(devkit)
    network = copy.deepcopy(model.network).requires_grad_(True)
    config = TrainingConfig(epochs=1, batch_size=4, devices=2)
    evaluator = WorkbenchEvaluator(network, model.architecture, config, workbench(devkit, tmp_path))
    with pytest.raises(InputError, match="devices: expected 1 where more is learnt than the detection loss, got 2"):
        taylor(network, ["layers.0.convolution"], evaluator)
