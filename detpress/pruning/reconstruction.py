"""Weights refitted after a cut, so that what is left of a layer gives what it gave with all of its inputs.

He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, 2017: least squares of
a layer's output before the cut, on the inputs that it has after it, layer by layer from the images on, so that each
makes up for those before it, too. Here only for convolutions of one place (1x1, without groups): in networks of
depthwise convolutions these take all channels from each other.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detpress.detector.coupling import by_convolution
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, convolution_name
from detpress.detector.removal import without_blocks
from detpress.pruning.budgets import Cut
from detpress.training.statistics import batch_norms

RIDGE = 1e-3  # of the inputs' mean variance, added to each one's


@torch.no_grad()
def reconstructed(smaller: Network, whole: Network, cut: Cut, images: Tensor) -> Network:
    """A copy of `smaller`, which is `whole` after the cut, with its 1x1 convolutions refitted, in eval mode.

    images: float32 (N, 3, H, W) in [0, 1], all in memory at once with every layer's output. Its BatchNorms have the
    statistics of these images.
    """
    found = copy.deepcopy(smaller)
    kept, old = by_convolution(whole.architecture, cut.kept), _old_numbers(whole, cut)
    fitted = [i for i, layer in enumerate(found.architecture.layers) if _is_fitted(layer)]
    wanted: dict[int, Tensor] = {}

    def remember(i: int, output: Tensor) -> None:
        wanted[i] = output[:, kept[old[i]]] if old[i] in kept else output

    _run(
        whole.eval(),
        images,
        [(old[i], lambda _m, _x, output, i=i: remember(i, output)) for i in fitted],
    )
    norms = batch_norms(found.eval())
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    for i in fitted:
        module = found.get_submodule(convolution_name(i))
        assert isinstance(module, nn.Conv2d)
        module.register_forward_pre_hook(lambda conv, inputs, i=i: refit(conv, inputs[0], wanted.pop(i)))
    _run(found, images, [])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    with_weights = copy.deepcopy(smaller)
    with_weights.load_state_dict(found.state_dict())
    return with_weights.eval()


def refit(convolution: nn.Conv2d, inputs: Tensor, wanted: Tensor) -> None:
    """Sets the weights, and the bias where there is one, to the least squares of `wanted` on `inputs`.

    inputs: (N, C, H, W). wanted: (N, F, H, W). Without a bias their means are left to the BatchNorm behind.
    """
    step = convolution.stride
    inputs = inputs[:, :, :: step[0], :: step[1]]
    given, asked = (maps.transpose(0, 1).flatten(1) for maps in (inputs, wanted))
    means = given.mean(dim=1, keepdim=True), asked.mean(dim=1, keepdim=True)
    given, asked = given - means[0], asked - means[1]
    products = (given @ given.T).double()
    products.diagonal().add_(RIDGE * products.diagonal().mean() + torch.finfo(torch.float32).tiny)
    weight = torch.linalg.solve(products, (given @ asked.T).double()).T.float()
    convolution.weight.copy_(weight[:, :, None, None])
    if convolution.bias is not None:
        convolution.bias.copy_((means[1] - weight @ means[0]).flatten())


def _is_fitted(layer: object) -> bool:
    return isinstance(layer, Convolution) and layer.size == 1 and layer.groups == 1


def _old_numbers(whole: Network, cut: Cut) -> dict[int, int]:
    """The layers' numbers before the cut, by those after it."""
    return {new: old for old, new in without_blocks(whole.architecture, cut.blocks).numbers.items()}


def _run(network: Network, images: Tensor, hooks: list[tuple[int, Any]]) -> None:
    handles = [network.get_submodule(convolution_name(i)).register_forward_hook(hook) for i, hook in hooks]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
