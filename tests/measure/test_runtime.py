"""Every runtime gives the maps of the network, and says truly what it computes in."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo
from detpress.detector.input_scale import InputScale
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.encodings.int8 import Int8
from detpress.errors import InputError
from detpress.runtimes.names import RUNTIMES
from detpress.runtimes.opening import open_runtime

ANCHORS = ((8.0, 8.0), (16.0, 16.0), (32.0, 32.0))
FEW_LAYERS = Architecture(
    "few-layers",
    (
        Convolution(16, size=3, stride=2),
        Convolution(16, size=3),
        Shortcut(0),
        Convolution(21, size=1, batch_normalize=False, activation="linear"),
        Yolo(ANCHORS),
    ),
    ("cat", "dog"),
    image_size=64,
)


@pytest.fixture(scope="module")
def int8_of_few_layers() -> Model:
    """Its largest sum is 16 * 9 * 127 * 255 < 2^24, so that float and integers count alike."""
    scales = {0: InputScale(1 / 256, 0), 1: InputScale(1 / 16, 128), 3: InputScale(1 / 16, 128)}
    network = Network(FEW_LAYERS, {i: Int8(scale) for i, scale in scales.items()})
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith(".weight"):
            tensor.random_(-127, 128, generator=generator)
        elif name.endswith(".weight_scale"):
            tensor.fill_(1 / 256)
    return Model(network.eval())


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_float_maps_are_those_of_the_network(name: str, dense_model: Model, images: Tensor) -> None:
    runtime = open_runtime(name, dense_model, batch=2, threads=1)
    assert (runtime.name, runtime.threads, runtime.precision) == (name, 1, "fp32")
    with torch.inference_mode():
        for count in (2, 5):  # a full batch, and what is left over
            found = runtime.run(images[:count])
            for one, other in zip(dense_model.network(images[:count]), found, strict=True):
                torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


def test_torch_compile_gives_the_maps_of_the_network(images: Tensor) -> None:
    model = new_model(FEW_LAYERS, seed=0)
    runtime = open_runtime("torch-compile", model, batch=2, threads=1)
    assert (runtime.threads, runtime.precision) == (1, "fp32")
    with torch.inference_mode():
        found = runtime.run(images[:5])
        torch.testing.assert_close(found[0], model.network(images[:5])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino", "openvino-bf16"])  # torch-compile has a copy
def test_a_model_is_after_it_was_run_what_it_was_before(name: str, int8_of_few_layers: Model, images: Tensor) -> None:
    """A chain makes the next stage of the model that was measured."""
    for model in (new_model(FEW_LAYERS, seed=0), int8_of_few_layers):
        before = copy.deepcopy(model.network)
        with torch.inference_mode():
            open_runtime(name, model, batch=2, threads=1).run(images[:2])
        assert described(model.network) == described(before)
        tensors, state = before.state_dict(), model.network.state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in tensors.items())


def described(network: nn.Module) -> list[object]:
    """Each module's class, mode, hooks and other attributes, tensors by their names and whether they are learnt."""
    return [
        (name, type(module), module.training, sorted(vars(module)), len(module._forward_hooks))
        for name, module in network.named_modules()
    ] + [(name, tensor.requires_grad, tensor.is_inference()) for name, tensor in network.named_parameters()]


@pytest.mark.usefixtures("exact_int8")
@pytest.mark.parametrize("name", ["openvino", "torch-compile"])
def test_int8_models_are_computed_in_integers(name: str, int8_of_few_layers: Model, images: Tensor) -> None:
    runtime = open_runtime(name, int8_of_few_layers, batch=2)
    assert runtime.precision == "int8"
    with torch.inference_mode():
        expected, found = int8_of_few_layers.network(images[:2])[0], runtime.run(images[:2])[0]
    step = 127 / 256 / 16  # what one input that is rounded the other way changes
    assert float((expected - found).abs().max()) <= 4 * step
    assert float(expected.std()) > 20 * step


@pytest.mark.usefixtures("exact_int8")
def test_openvino_computes_all_75_convolutions_of_incs_model_in_integers(int8_model: Model, images: Tensor) -> None:
    runtime = open_runtime("openvino", int8_model)
    assert runtime.precision == "int8"
    with torch.inference_mode():
        for one, other in zip(int8_model.network(images), runtime.run(images), strict=True):
            noise = (one - other).square().mean() / one.var()
            assert float(noise) < 1e-2  # 20 dB; the float network is no farther than 25


@pytest.mark.usefixtures("exact_int8")
def test_onnxruntime_computes_all_but_the_heads_of_incs_model_in_integers(int8_model: Model, images: Tensor) -> None:
    runtime = open_runtime("onnxruntime", int8_model)
    assert runtime.precision == "fp32+int8"
    with torch.inference_mode():
        for one, other in zip(int8_model.network(images), runtime.run(images), strict=True):
            noise = (one - other).square().mean() / one.var()
            assert float(noise) < 2e-2  # it rounds what convolutions give, too


def test_torchs_threads_are_put_back(dense_model: Model, images: Tensor) -> None:
    before = torch.get_num_threads()
    open_runtime("torch", dense_model, threads=before + 1).run(images[:1])
    assert torch.get_num_threads() == before


def test_an_unknown_runtime_is_named(dense_model: Model) -> None:
    with pytest.raises(InputError, match="unknown runtime 'openvin'; did you mean 'openvino'"):
        open_runtime("openvin", dense_model)


def test_a_runtime_that_is_not_installed_names_its_package() -> None:
    code = """
import sys
sys.modules["openvino"] = None
from detpress.detector.architecture import build_architecture
from detpress.runtimes.opening import open_runtime
from detpress.detector.model import new_model
try:
    open_runtime("openvino", new_model(build_architecture("yolov3-tiny", ["cat"], 32, width=0.1), 0))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "InputError runtime 'openvino' needs the package 'openvino', which is not installed\n"


def test_ctrl_c_is_still_handled_when_the_first_of_two_openvino_networks_is_gone() -> None:
    """A stack for signal handlers that is there no longer would end the process with SIGSEGV."""
    code = """
import faulthandler, signal
from detpress.detector.architecture import build_architecture
from detpress.runtimes.opening import open_runtime
from detpress.detector.model import new_model
faulthandler.enable()
model = new_model(build_architecture("yolov3-tiny", ["cat"], 32, width=0.1), 0)
first = open_runtime("openvino", model)
second = open_runtime("openvino", model)
del first
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("handled")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_runtimes_of_the_recipe_are_these() -> None:
    from detpress.measure.section import Measure

    assert Measure(runtimes=list(RUNTIMES)).runtimes == list(RUNTIMES)
