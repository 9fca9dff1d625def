"""What is taken over from Intel Neural Compressor: the real engine on a small YOLOv3-tiny."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detpress.adapters.inc import BATCH, Scheme, inc_program, int8_network, network_of_program, quantize_static
from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo
from detpress.detector.input_scale import InputScale
from detpress.detector.kinds import AveragePool, ScaleChannels
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.detector.rewriting import with_activations
from detpress.encodings.int8 import input_scales
from detpress.errors import InputError, StageError

LOG = logging.getLogger("tests.inc")
LOG.addHandler(logging.NullHandler())


def convolutions(model: Model) -> set[int]:
    return {i for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution)}


@pytest.mark.parametrize(
    ("scheme", "in_float"),
    [
        (Scheme(), set()),
        (Scheme("kl", symmetric=True), {2, 15, 22}),
        (Scheme("kl", per_channel=False), {0}),
    ],
)
def test_our_network_gives_the_bits_of_incs_program(
    tiny: Model, images: Tensor, scheme: Scheme, in_float: set[int]
) -> None:
    program = inc_program(tiny.network, images, scheme, in_float, LOG)
    network = network_of_program(program, tiny.architecture)
    assert set(input_scales(network)) == convolutions(tiny) - in_float
    unseen = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for one, other in zip(program(unseen), network(unseen), strict=True):
            assert torch.equal(one, other)


def test_a_linear_convolution_before_an_addition_and_what_is_pooled_are_no_exceptions(images: Tensor) -> None:
    """The engine fuses the convolution with the addition, and would round the addition's other input, too."""
    block = (
        Convolution(8, size=3, stride=4, activation="relu6"),
        Convolution(4, size=1, activation="relu6"),
        Convolution(4, size=3, groups=4, activation="relu6"),
        Convolution(8, size=1, activation="linear"),
        Shortcut(0),
        AveragePool(),
        Convolution(2, size=1, batch_normalize=False, activation="relu6"),
        Convolution(8, size=1, batch_normalize=False, activation="logistic"),
        ScaleChannels(4),
    )
    head = (Convolution(21, size=1, batch_normalize=False, activation="linear"), Yolo(((8, 8), (16, 16), (32, 32))))
    model = new_model(Architecture("block", (*block, *head), ("cat", "dog"), image_size=64), seed=0)
    program = inc_program(model.network, images, Scheme(), set(), LOG)
    network = int8_network(program, model.architecture, images)
    assert set(input_scales(network)) == convolutions(model)
    rounded = {
        str(user.target) for node in program.graph.nodes if "dequantize" in str(node.target) for user in node.users
    }
    assert rounded == {"aten.conv2d.default"}


def test_ranges_are_means_over_all_batches_and_the_model_is_left_alone(tiny: Model) -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2 * BATCH, 3, 64, 64, generator=generator)
    images[:BATCH] *= 0.5
    before = copy.deepcopy(tiny.network.state_dict())
    network = quantize_static(tiny.network, tiny.architecture, images, Scheme(), (), LOG)
    again = quantize_static(tiny.network, tiny.architecture, images, Scheme(), (), LOG)
    first = input_scales(network)[0]
    largest = torch.stack([images[:BATCH].max(), images[BATCH:].max()]).mean()
    assert first.scale == pytest.approx(float(largest) / 255, rel=1e-6)
    assert first.zero_point == 0
    assert (network.encodings, network.between) == (again.encodings, again.between), "not deterministic"
    assert all(torch.equal(one, other) for one, other in zip(network.buffers(), again.buffers(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.network.state_dict().items())


def test_a_single_image_is_enough_to_calibrate(tiny: Model, images: Tensor) -> None:
    network = quantize_static(tiny.network, tiny.architecture, images[:1], Scheme(), (), LOG)
    assert input_scales(network)[0].scale == pytest.approx(float(images[0].max()) / 255, rel=1e-6)


@pytest.fixture(scope="module")
def default(tiny: Model, images: Tensor) -> Network:
    return quantize_static(tiny.network, tiny.architecture, images, Scheme(), (), LOG)


@pytest.fixture(scope="module")
def asymmetric(tiny: Model, images: Tensor) -> dict[int, InputScale]:
    """Layer -> scale of its input, whose zero lies where the values have it."""
    return input_scales(quantize_static(tiny.network, tiny.architecture, images, Scheme(symmetric=False), (), LOG))


def test_symmetric_activations_have_their_zero_in_the_middle(
    tiny: Model, images: Tensor, asymmetric: dict[int, InputScale]
) -> None:
    network = quantize_static(tiny.network, tiny.architecture, images, Scheme(symmetric=True), (), LOG)
    inputs = input_scales(network)
    assert inputs.pop(0).zero_point == 0, "images are never negative"
    assert all(scale.zero_point == 127 for scale in inputs.values())
    for i, scale in inputs.items():
        finer = asymmetric[i]
        reach = finer.scale * max(finer.zero_point, 255 - finer.zero_point)
        assert scale.scale == pytest.approx(reach / 127.5, rel=0.01), "255 steps over [-reach, reach]"


def test_by_default_the_zero_is_in_the_middle_only_of_what_a_convolution_pads(
    tiny: Model, default: Network, asymmetric: dict[int, InputScale]
) -> None:
    """Layers 13, 15 and 22 have kernels of 1; so has 18, but 14 pads what it takes."""
    inputs = input_scales(default)
    finer = {i for i, scale in inputs.items() if scale == asymmetric[i]}
    assert finer == {0, 13, 15, 22}
    assert inputs[0].zero_point == 0, "images are never negative"
    assert {scale.zero_point for i, scale in inputs.items() if i not in finer} == {127}
    assert default.between["layers.13"] == inputs[14] == inputs[18]


def test_what_was_never_negative_has_its_zero_at_the_lowest_code_by_any_scheme(tiny: Model, images: Tensor) -> None:
    rectified = with_activations(tiny.network, "relu")
    network = quantize_static(rectified, tiny.architecture, images, Scheme(symmetric=True), (), LOG)
    assert {scale.zero_point for scale in input_scales(network).values()} == {0}


def test_one_scale_for_a_whole_layer_is_the_largest_of_its_filters(
    tiny: Model, images: Tensor, default: Network
) -> None:
    whole = quantize_static(tiny.network, tiny.architecture, images, Scheme(per_channel=False), (), LOG)
    for i in convolutions(tiny):
        name = f"layers.{i}.convolution.weight_scale"
        one, many = whole.get_buffer(name), default.get_buffer(name)
        assert torch.equal(one, many.max().expand_as(many))
        assert len(many.unique()) > 1


def test_quantizing_nothing_fails(tiny: Model, images: Tensor) -> None:
    with pytest.raises(StageError, match="INC quantized no convolution"):
        quantize_static(tiny.network, tiny.architecture, images, Scheme(), convolutions(tiny), LOG)


def test_no_calibration_images_is_an_error(tiny: Model, images: Tensor) -> None:
    with pytest.raises(InputError, match="no calibration images"):
        quantize_static(tiny.network, tiny.architecture, images[:0], Scheme(), (), LOG)


def test_a_network_that_does_not_give_finite_numbers_is_not_quantized(tiny: Model, images: Tensor) -> None:
    network = copy.deepcopy(tiny.network)
    with torch.no_grad():
        network.get_submodule("layers.4.convolution").weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(StageError, match="not finite"):
        quantize_static(network, tiny.architecture, images, Scheme(), (), LOG)


def test_a_program_that_rounds_another_operator_than_convolutions_is_refused(tiny: Model, images: Tensor) -> None:
    program = inc_program(tiny.network, images, Scheme(), set(), LOG)
    activation = next(node for node in program.graph.nodes if "leaky_relu" in str(node.target))
    with program.graph.inserting_after(activation):
        rounded = program.graph.call_function(torch.ops.aten.round.decimals, (activation,), {"decimals": 1})
    activation.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
    program.recompile()
    with pytest.raises(StageError, match="the engine's program does not compute what its scales and weights say"):
        int8_network(program, tiny.architecture, images)


def test_messages_go_to_the_log_and_no_file_is_left(
    tiny: Model, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    log = logging.Logger("stage", logging.DEBUG)
    log.addHandler(logging.FileHandler(tmp_path / "stage.log"))
    quantize_static(tiny.network, tiny.architecture, images, Scheme(), (), log)
    assert capfd.readouterr() == ("", "")
    assert "Conversion end." in (tmp_path / "stage.log").read_text()
    assert list(here.iterdir()) == []
