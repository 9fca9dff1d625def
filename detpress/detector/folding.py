"""BatchNorm in eval mode, seen from the convolution before it: a factor and an addend for each filter."""

import torch
from torch import Tensor, nn

from detpress.detector.network import Network


def batch_norm_of(network: Network, layer: int) -> tuple[Tensor, Tensor]:
    """What becomes of the convolution of block `layer`: each filter times `gain`, plus `bias`, both float32 (F,).

    Without BatchNorm the gain is 1 and the bias the convolution's own.
    """
    block = network.get_submodule(f"layers.{layer}")
    convolution, norm = block.get_submodule("convolution"), dict(block.named_children()).get("norm")
    assert isinstance(convolution, nn.Conv2d)
    own = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
    if norm is None:
        return torch.ones_like(own), own.clone()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    return gain, norm.bias.detach() + (own - norm.running_mean) * gain


def folded_weight(network: Network, layer: int) -> tuple[Tensor, Tensor]:
    """Weight (F, I, k, k) and bias (F,) of the convolution that does alone what it and its BatchNorm do."""
    gain, bias = batch_norm_of(network, layer)
    weight = network.get_parameter(f"layers.{layer}.convolution.weight").detach()
    return weight * gain[:, None, None, None], bias
