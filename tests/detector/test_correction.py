"""What makes int8 finer without a cost: equalized channels before depthwise convolutions, and corrected biases."""

import logging
from dataclasses import replace

import pytest
import torch
from seen_images import let_see
from torch import Tensor

from detpress.adapters.inc import Scheme, quantize_static
from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo
from detpress.detector.model import new_model
from detpress.detector.network import Network, convolution_of
from detpress.encodings.bias_correction import with_corrected_biases
from detpress.encodings.equalization import equalized
from detpress.encodings.int8 import Int8Convolution
from detpress.runtimes.opening import open_runtime

LOG = logging.getLogger("tests.correction")
BOTTLENECK = Architecture(
    "bottleneck",
    (
        Convolution(8, size=3, stride=2),
        Convolution(16, size=1),
        Convolution(16, size=3, groups=16),
        Convolution(8, size=1, activation="linear"),
        Shortcut(0),
        Convolution(21, size=1, batch_normalize=False, activation="linear"),
        Yolo(((8.0, 8.0), (16.0, 16.0), (32.0, 32.0))),
    ),
    ("cat", "dog"),
    image_size=64,
)


@pytest.fixture(scope="module")
def unequal(images: Tensor) -> Network:
    """Its expansion gives channels of very different ranges, which the depthwise convolution makes up for."""
    network = new_model(BOTTLENECK, seed=0).network
    assert isinstance(network, Network)
    let_see(network, images)
    with torch.no_grad():
        factors = torch.logspace(-1, 1, 16)
        norm = network.get_submodule("layers.1.norm")
        norm.weight *= factors
        norm.bias *= factors
        network.get_submodule("layers.2.convolution").weight /= factors[:, None, None, None]
    return network.eval().requires_grad_(False)


def ranges(network: Network, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = convolution_of(network, 2).register_forward_pre_hook(lambda _, taken: seen.append(taken[0]))
    network(images)
    hook.remove()
    return seen[0].abs().amax((0, 2, 3))


def noise(network: Network, other: Network, images: Tensor) -> float:
    [one], [two] = network(images), other(images)
    return float((one - two).square().mean() / one.var())


@torch.inference_mode()
def test_equalized_channels_have_one_range_and_the_network_computes_the_same(unequal: Network, images: Tensor) -> None:
    found = equalized(unequal, images[:16])
    before, after = ranges(unequal, images[:16]), ranges(found, images[:16])
    assert before.max() / before.min() > 50
    assert after.max() / after.min() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(found(images), unequal(images), rtol=1e-4, atol=1e-4)
    assert ranges(unequal, images[:16]).equal(before), "the network given is left as it was"


@torch.inference_mode()
def test_channels_of_a_convolution_that_has_no_bias_are_equalized_too(images: Tensor) -> None:
    """As `low_rank.cp` leaves them: a linear 1 x 1 convolution before the depthwise ones."""
    layers = list(BOTTLENECK.layers)
    layers[1] = Convolution(16, size=1, batch_normalize=False, bias=False, activation="linear")
    network = new_model(replace(BOTTLENECK, layers=tuple(layers)), seed=0).own_network
    torch.testing.assert_close(equalized(network, images)(images), network(images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_corrected_biases_give_every_convolution_the_mean_of_the_float_network(
    unequal: Network, images: Tensor
) -> None:
    plain = quantize_static(unequal, BOTTLENECK, images[:16], Scheme(corrected=False), (), LOG)
    found = with_corrected_biases(plain, unequal, images[:16])
    expected, corrected, before = (one(images[:16])[0].mean((0, 2, 3)) for one in (unequal, found, plain))
    assert (corrected - expected).abs().max() < (before - expected).abs().max() / 5
    assert noise(unequal, found, images) < noise(unequal, plain, images)


@torch.inference_mode()
def test_int8_of_a_linear_bottleneck_is_corrected_and_runtimes_compute_what_it_means(
    unequal: Network, images: Tensor
) -> None:
    plain = quantize_static(unequal, BOTTLENECK, images, Scheme(corrected=False), (), LOG)
    found = quantize_static(unequal, BOTTLENECK, images, Scheme(), (), LOG)
    assert noise(unequal, found, images) < noise(unequal, plain, images) / 10
    largest = {}
    for i in found.encodings:
        convolution = convolution_of(found, i)
        assert isinstance(convolution, Int8Convolution)
        largest[i] = int(convolution.weight.int().abs().max())
    assert largest.pop(2) >= 127, "a depthwise one has the whole range"
    assert set(largest.values()) == {64}
    model = new_model(BOTTLENECK, seed=0).with_network(found)
    for name in ("openvino", "onnxruntime"):
        [raw] = open_runtime(name, model, threads=1).run(images[:2])
        [expected] = found(images[:2])
        assert float((raw - expected).square().mean() / expected.var()) < 0.01, name
