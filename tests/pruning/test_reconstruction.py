"""1x1 convolutions refitted after a cut: exactly where what went can be made of what stays."""

import torch
from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Shortcut, Yolo
from detpress.detector.network import Network
from detpress.pruning.budgets import Budget, cut_to, size_of
from detpress.pruning.cutting import carry_out
from detpress.pruning.filter_groups import prunable_groups
from detpress.pruning.reconstruction import reconstructed, refit
from detpress.training.statistics import with_statistics_of

LAYERS = (
    Convolution(4, 3, stride=2),
    Convolution(6, 1),
    Convolution(6, 3, groups=6),
    Convolution(4, 1, activation="linear"),
    Shortcut(0),
    Convolution(6, 1, batch_normalize=False, activation="linear"),
    Yolo(((10, 10),)),
)


def test_least_squares_finds_weights_and_bias_behind_a_stride() -> None:
    torch.manual_seed(0)
    asked, fitted = nn.Conv2d(3, 2, 1, stride=2), nn.Conv2d(3, 2, 1, stride=2)
    inputs = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        refit(fitted, inputs, asked(inputs))
    torch.testing.assert_close(fitted.weight, asked.weight, rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(fitted.bias, asked.bias, rtol=5e-3, atol=1e-3)


def test_a_network_gives_what_it_gave_when_each_filter_that_went_has_a_twin_that_stays() -> None:
    torch.manual_seed(0)
    whole = Network(Architecture("any", LAYERS, ("cell",), 64)).eval()
    images = torch.rand(8, 3, 64, 64)
    with torch.no_grad():
        for i in (1, 2):
            for part in ("convolution", "norm"):
                for tensor in whole.get_submodule(f"layers.{i}.{part}").state_dict().values():
                    if tensor.ndim:
                        tensor[3:] = tensor[:3]
    whole = with_statistics_of(whole, images)
    assert isinstance(whole, Network)
    importance = {
        group: torch.tensor([3.0, 3, 3, 1, 1, 1]) if group == (1, 2) else torch.full((len(units),), 9.0)
        for group, units in prunable_groups(whole.architecture).items()
    }
    cut = cut_to(whole.architecture, importance, Budget(parameters=size_of(whole.architecture).parameters - 48), 1)
    assert {group: kept.tolist() for group, kept in cut.kept.items()} == {(1, 2): [True] * 3 + [False] * 3}
    smaller = carry_out(whole, cut)
    weights = {name: tensor.clone() for name, tensor in smaller.state_dict().items()}
    found = reconstructed(smaller, whole, cut, images)

    with torch.no_grad():
        [wanted], [without], [given] = whole(images), smaller(images), found(images)
    assert float((given - wanted).abs().max()) < 0.05 * float((without - wanted).abs().max())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in smaller.state_dict().items()), "left as it was"
    assert not found.layers[1].convolution._forward_pre_hooks
