"""Weights that share values: k-means on a line, what is stored, and how the values learn (Deep Compression, Fig. 3)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.detector.network import Network
from detpress.encodings.clustering import STARTS, Start, clustered, nearest_of, starting_centroids
from detpress.encodings.shared import Clusters, Shared, clusters_of, shared_network
from detpress.errors import InputError
from detpress.training.shared_weights import codebook_of, no_longer_shared, share


def drawn(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count)


@pytest.mark.parametrize("start", STARTS)
def test_the_clusters_are_those_of_k_means_in_any_dimension(start: Start) -> None:
    values = drawn(500)
    begun = starting_centroids(values, 8, start, seed=3)
    reference = KMeans(8, init=begun[:, None], n_init=1, tol=0, max_iter=1000).fit(values[:, None])
    found = clustered(values, begun)
    np.testing.assert_allclose(found, np.sort(reference.cluster_centers_.ravel()), atol=1e-9)
    distances = np.abs(values[:, None] - found)
    np.testing.assert_array_equal(nearest_of(values, found), distances.argmin(axis=1))


def test_where_k_means_begins() -> None:
    values = np.array([-1.0, 0, 0, 0, 0, 0, 0, 7])
    assert starting_centroids(values, 2, "linear", 0).tolist() == [-1, 7]
    assert starting_centroids(np.arange(100.0), 4, "density", 0).tolist() == pytest.approx(
        [12.375, 37.125, 61.875, 86.625]
    )
    assert starting_centroids(values, 3, "density", 0).tolist() == [-1, 0, 7], "no more than there are"
    by_seed = [starting_centroids(drawn(50), 4, "random", seed).tolist() for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    assert set(by_seed[0]) < set(drawn(50))


def test_a_centroid_that_nothing_is_nearest_to_is_left_out() -> None:
    values = np.array([0.0, 0.1, 0.2, 10.0])
    assert clustered(values, np.array([0.0, 5.0, 10.0])).tolist() == pytest.approx([0.1, 10.0])


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.integers(1, 9), st.sampled_from(STARTS))
def test_centroids_ascend_and_each_is_the_mean_of_its_own(values: list[float], count: int, start: Start) -> None:
    numbers = np.array(values)
    found = clustered(numbers, starting_centroids(numbers, count, start, 0))
    assert 1 <= len(found) <= count
    assert (np.diff(found) > 0).all()
    own = nearest_of(numbers, found)
    means = [numbers[own == i].mean() for i in range(len(found))]
    np.testing.assert_allclose(found, means, rtol=1e-9, atol=1e-9)


INDICES = torch.tensor([[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]])
GRADIENT = torch.tensor(
    [[-0.03, -0.01, 0.03, 0.02], [-0.01, 0.01, -0.02, 0.12], [-0.01, 0.02, 0.04, 0.01], [-0.07, -0.02, 0.01, -0.02]]
)


def test_values_learn_by_the_summed_gradients_of_their_weights_as_in_the_papers_figure_3() -> None:
    layer = nn.Module()
    layer.convolution = nn.Conv2d(4, 4, 1, bias=False)
    network = nn.Module()
    network.layers = nn.ModuleList([layer])
    share(network, 0, Clusters(torch.tensor([-1.0, 0.0, 1.5, 2.0]), INDICES[..., None, None], sparse=False))
    weight = layer.convolution.weight
    assert weight[0].flatten().tolist() == [2.0, -1.0, 1.5, 0.0]
    sgd = torch.optim.SGD(network.parameters(), lr=1.0)
    weight.backward(GRADIENT[..., None, None])
    sgd.step()
    assert codebook_of(network, 0).tolist() == pytest.approx([-0.97, -0.04, 1.48, 1.96])


def test_sixteen_weights_of_four_values_take_a_32nd_of_a_hundred_of_their_bits() -> None:
    """n b / (n log2 k + k b) = 512 / 160 = 3.2."""
    tensors = {"codes": INDICES.to(torch.uint8), "codebook": torch.zeros(4)}
    assert 8 * Shared(4, sparse=False).stored_bytes(tensors) == 160
    assert 16 * 32 / 160 == 3.2


def test_what_is_masked_takes_no_part_and_stays_zero() -> None:
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = weight.abs() > 0.8
    found = clusters_of(weight, mask, bits=2, start="linear", seed=0)
    assert found.encoding == Shared(3, sparse=True)
    assert found.encoding.stored_bits == 2
    assert torch.equal(found.codes > 0, mask)
    assert (found.codebook.abs() > 0.8).all()
    nothing = clusters_of(weight, torch.zeros_like(mask), bits=2, start="linear", seed=0)
    assert nothing.encoding == Shared(0, sparse=True)
    everything = clusters_of(weight, torch.ones_like(mask), bits=2, start="linear", seed=0)
    assert everything.encoding == Shared(4, sparse=False)


def network_of_few_values() -> tuple[Network, dict[int, Clusters]]:
    network = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.0625), seed=0).network
    assert isinstance(network, Network)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if ".norm." in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
    clusters = {}
    for i in network.encodings:
        weight = network.get_parameter(f"layers.{i}.convolution.weight").detach()
        clusters[i] = clusters_of(weight, None, 8, "density", 0)
    return network, clusters


def test_a_network_of_shared_weights_computes_what_the_one_in_float_does_with_these_weights() -> None:
    network, clusters = network_of_few_values()
    encoded = shared_network(network, clusters)
    for i, found in clusters.items():
        share(network, i, found)
    plain = no_longer_shared(network)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other, same in zip(encoded(images), plain(images), network.eval()(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
            assert torch.equal(other, same)


def test_codes_beyond_the_codebook_are_refused() -> None:
    tensors = {"codebook": torch.zeros(3), "codes": torch.tensor([[[[4]]]]), "gain": torch.ones(1)}
    with pytest.raises(InputError, match="code 4 of a codebook of 4"):
        Shared(3, sparse=True).weight(tensors, torch.Size((1, 1, 1, 1)))
    for values in (-1, 256):
        with pytest.raises(InputError, match="expected codes of at most 8 bits"):
            Shared(values, sparse=True)
    assert [Shared(values, sparse=False).stored_bits for values in (1, 2, 3, 4, 5, 256)] == [1, 1, 2, 2, 3, 8]
    assert Shared(255, sparse=True).stored_bits == 8
