"""A convolution as several: the same at full rank, the least error below, and the papers' numbers of weights."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detpress.detector.kinds import Convolution
from detpress.detector.layer import FeatureMap
from detpress.low_rank.canonical import Cp
from detpress.low_rank.factorization import Factorization, Ranks, Spatial, Svd, macs_of
from detpress.low_rank.tucker import Tucker

METHODS: dict[str, Factorization] = {"svd": Svd(), "spatial": Spatial(), "tucker": Tucker(), "cp": Cp()}
FILTERS, INCOMING, SIZE, RANK = 12, 8, 3, 4
LAYER = Convolution(FILTERS, SIZE)
COUNTS = {  # weights where every rank is 4
    "svd": RANK * (INCOMING * SIZE**2 + FILTERS),
    "spatial": RANK * SIZE * (INCOMING + FILTERS),
    "tucker": INCOMING * RANK + RANK * RANK * SIZE**2 + RANK * FILTERS,
    "cp": RANK * (INCOMING + 2 * SIZE + FILTERS),
}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def together(layers: tuple[Convolution, ...], weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
    for layer, weight in zip(layers, weights, strict=True):
        assert weight.shape == layer.weight_shape(x.shape[1])
        x = functional.conv2d(x, weight, None, layer.strides, layer.padding, layer.dilation, layer.groups)
    return x


def as_one(method: Factorization, layer: Convolution, weight: Tensor, ranks: Ranks) -> Tensor:
    """The weights of the one convolution that computes what the several do: its answers to single pixels."""
    plain = Convolution(layer.filters, layer.size, pad=0)
    incoming, (height, width) = weight.shape[1], plain.kernel
    pixels = torch.eye(incoming * height * width).view(-1, incoming, height, width)
    found = together(method.layers(plain, ranks), method.weights(weight, ranks), pixels)
    return found.flatten(1).T.reshape(weight.shape)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "layer",
    [
        LAYER,
        Convolution(FILTERS, SIZE, stride=2),
        Convolution(FILTERS, SIZE, dilation=2),
        Convolution(FILTERS, SIZE, pad=0),
        Convolution(FILTERS, (5, 3), stride=(1, 2), pad=(2, 0)),
        Convolution(FILTERS, 2, stride=2),
    ],
    ids=["plain", "stride", "dilation", "pad", "oblong", "even"],
)
def test_at_full_rank_it_computes_what_the_layer_does(name: str, layer: Convolution) -> None:
    method, weight, x = METHODS[name], drawn(*layer.weight_shape(INCOMING)), drawn(2, INCOMING, 16, 16)
    ranks = tuple(len(each) for each in method.energies(weight))
    found = together(method.layers(layer, ranks), method.weights(weight, ranks), x)
    whole = together((layer,), (weight,), x)

    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_as_many_as_the_papers_say(name: str) -> None:
    method, weight = METHODS[name], drawn(FILTERS, INCOMING, SIZE, SIZE)
    ranks = (RANK,) * len(method.energies(weight))
    weights = method.weights(weight, ranks)
    assert sum(each.numel() for each in weights) == COUNTS[name]
    assert macs_of(method.layers(LAYER, ranks), FeatureMap(INCOMING, 10)) == 100 * COUNTS[name]


@pytest.mark.parametrize("name", METHODS)
def test_energies_fall_and_are_all_there_is(name: str) -> None:
    weight = drawn(FILTERS, INCOMING, SIZE, SIZE)
    for energies in METHODS[name].energies(weight):
        assert (energies.diff() <= 0).all()
        assert float(energies.sum()) == pytest.approx(float(weight.double().square().sum()), rel=1e-9)


@pytest.mark.parametrize("name", ["svd", "spatial"])
def test_the_error_is_the_energy_of_what_was_left_out(name: str) -> None:
    method, weight = METHODS[name], drawn(FILTERS, INCOMING, SIZE, SIZE)
    [energies] = method.energies(weight)
    for rank in (1, RANK, len(energies) - 1):
        error = float((as_one(method, LAYER, weight, (rank,)) - weight).square().sum())
        assert error == pytest.approx(float(energies[rank:].sum()), rel=1e-4)


@pytest.mark.parametrize("name", ["tucker", "cp"])
def test_the_error_is_at_most_the_energy_of_what_was_left_out(name: str) -> None:
    method, weight = METHODS[name], drawn(FILTERS, INCOMING, SIZE, SIZE)
    energies = method.energies(weight)
    for rank in (1, RANK, len(energies[0]) - 1):
        error = float((as_one(method, LAYER, weight, (rank,) * len(energies)) - weight).square().sum())
        assert error < (1 + 1e-5) * sum(float(each[rank:].sum()) for each in energies)


def test_weights_that_are_a_few_products_are_found_by_their_number() -> None:
    """Three products of a filter, a channel, a column and a row, of which the orthogonal start leaves something out."""
    factors = [
        torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (FILTERS, INCOMING, SIZE, SIZE + 2)
    ]
    weight = torch.einsum("fr,ir,hr,wr->fihw", *factors)
    [energies] = Cp().energies(weight)
    error = (as_one(Cp(), Convolution(FILTERS, (SIZE, SIZE + 2)), weight, (3,)) - weight).square().sum()
    assert float(energies[3:].sum() / energies.sum()) > 0.01
    assert float(error / weight.square().sum()) < 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_weights_of_zero_stay_zero(name: str) -> None:
    weight = torch.zeros(FILTERS, INCOMING, SIZE, SIZE)
    ranks = (RANK,) * len(METHODS[name].energies(weight))
    assert not as_one(METHODS[name], LAYER, weight, ranks).any()


def test_energies_are_squared_singular_values() -> None:
    weight = drawn(FILTERS, INCOMING, SIZE, SIZE).double()
    [energies] = Svd().energies(weight)
    torch.testing.assert_close(energies, torch.linalg.svdvals(weight.flatten(1)).square())


def test_what_is_behind_the_layer_is_behind_the_last_one() -> None:
    layer = Convolution(FILTERS, SIZE, activation="mish")
    for method in METHODS.values():
        *first, last = method.layers(layer, (RANK,) * len(method.energies(drawn(FILTERS, INCOMING, SIZE, SIZE))))
        assert (last.filters, last.batch_normalize, last.activation) == (FILTERS, True, "mish")
        assert all((one.batch_normalize, one.bias, one.activation) == (False, False, "linear") for one in first)


@pytest.mark.parametrize(
    ("layer", "fitting"),
    [
        (Convolution(FILTERS, 3), {"svd", "spatial", "tucker", "cp"}),
        (Convolution(FILTERS, 1), {"svd"}),
        (Convolution(FILTERS, (3, 1)), {"svd", "tucker"}),
        (Convolution(INCOMING, 3, groups=INCOMING), set()),
    ],
    ids=["3 x 3", "1 x 1", "3 x 1", "depthwise"],
)
def test_what_fits_which_layers(layer: Convolution, fitting: set[str]) -> None:
    assert {name for name, method in METHODS.items() if method.fits(layer)} == fitting
