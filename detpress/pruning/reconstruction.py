"""Weights refitted after a cut, so that what is left of a layer gives what it gave with all of its inputs.

He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, 2017: least squares of
a layer's output before the cut on the inputs that it has after it, layer by layer from the images on, so that each
makes up for those before it, too. Here only for convolutions of one place (1x1, without groups): in networks of
depthwise convolutions these take all channels from each other.
"""

import copy

import torch
from torch import Tensor, nn

from detpress.detector.coupling import by_convolution
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, convolution_name
from detpress.detector.removal import without_blocks
from detpress.pruning.budgets import Cut
from detpress.training.statistics import statistics_of_batches

RIDGE = 1e-3  # of the inputs' mean variance, added to each one's


@torch.no_grad()
def reconstructed(smaller: Network, whole: Network, cut: Cut, images: Tensor) -> Network:
    """A copy of `smaller`, which is `whole` after the cut, with its 1x1 convolutions refitted, in eval mode.

    images: float32 (N, 3, H, W) in [0, 1], all in memory at once with what these convolutions gave before the cut.
    Every BatchNorm of the copy has the statistics of these images.
    """
    found, before = copy.deepcopy(smaller).eval(), copy.deepcopy(whole).eval()
    kept = by_convolution(whole.architecture, cut.kept)
    old_numbers = {new: old for old, new in without_blocks(whole.architecture, cut.blocks).numbers.items()}
    wanted: dict[int, Tensor] = {}

    for i, layer in enumerate(found.architecture.layers):
        if isinstance(layer, Convolution) and layer.kernel == (1, 1) and layer.groups == 1:
            old = old_numbers[i]

            def remember(_: nn.Module, inputs: object, output: Tensor, i: int = i, old: int = old) -> None:
                wanted[i] = output[:, kept[old]] if old in kept else output

            def refit_to_wanted(module: nn.Module, inputs: tuple[Tensor, ...], i: int = i) -> None:
                assert isinstance(module, nn.Conv2d)
                refit(module, inputs[0], wanted.pop(i))

            before.get_submodule(convolution_name(old)).register_forward_hook(remember)
            found.get_submodule(convolution_name(i)).register_forward_pre_hook(refit_to_wanted)
    before(images)
    with statistics_of_batches(found):
        found(images)
    without_hooks = copy.deepcopy(smaller)
    without_hooks.load_state_dict(found.state_dict())
    return without_hooks.eval()


def refit(convolution: nn.Conv2d, inputs: Tensor, wanted: Tensor) -> None:
    """Sets the weights of a 1x1 convolution to the least squares of `wanted` on `inputs`, both without their means.

    inputs: (N, C, H, W). wanted: (N, F, H, W) by its stride. The bias makes the means meet; where there is none, that
    is left to the BatchNorm behind.
    """
    down, across = convolution.stride
    given, asked = (maps.transpose(0, 1).flatten(1) for maps in (inputs[:, :, ::down, ::across], wanted))
    given_means, asked_means = given.mean(dim=1, keepdim=True), asked.mean(dim=1, keepdim=True)
    given, asked = given - given_means, asked - asked_means
    products = (given @ given.T).double()
    products.diagonal().add_(RIDGE * products.diagonal().mean() + torch.finfo(torch.float32).tiny)
    weight = torch.linalg.solve(products, (given @ asked.T).double()).T.float()
    convolution.weight.copy_(weight[:, :, None, None])
    if convolution.bias is not None:
        convolution.bias.copy_((asked_means - weight @ given_means).flatten())
