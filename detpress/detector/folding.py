"""BatchNorm in eval mode, seen from the convolution before it: a factor and an addend for each filter."""

import torch
from torch import Tensor, nn

from detpress.detector.encoding import weight_shape
from detpress.detector.network import Network, convolution_of
from detpress.errors import InputError


def batch_norm_of(network: Network, layer: int) -> tuple[Tensor, Tensor]:
    """What becomes of the convolution of block `layer`: each filter times `gain`, plus `bias`, both float32 (F,).

    Without BatchNorm the gain is 1 and the bias the convolution's own.
    """
    block = network.get_submodule(f"layers.{layer}")
    convolution, norm = block.get_submodule("convolution"), dict(block.named_children()).get("norm")
    bias = convolution.state_dict().get("bias")
    own = torch.zeros(len(convolution.get_parameter("weight"))) if bias is None else bias.float()
    if norm is None:
        return torch.ones_like(own), own.clone()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    return gain, norm.bias.detach() + (own - norm.running_mean) * gain


def folded_weight(network: Network, layer: int) -> tuple[Tensor, Tensor]:
    """Weight (F, I, k, k) and bias (F,) of the convolution that does alone what it and its BatchNorm do.

    Raises InputError for a layer that is no convolution of the network.
    """
    if layer not in network.encodings:
        kinds = [type(one).__name__ for one in network.architecture.layers]
        found = kinds[layer] if 0 <= layer < len(kinds) else f"no layer: there are {len(kinds)}"
        raise InputError(f"layers.{layer} is {found}; expected a convolution")
    gain, bias = batch_norm_of(network, layer)
    return stored_weight(network, layer) * gain[:, None, None, None], bias


def stored_weight(network: Network, layer: int) -> Tensor:
    """What the convolution of block `layer` stores, as float32 (F, I, k, k); BatchNorm is in it where it is folded."""
    convolution = convolution_of(network, layer)
    return network.encodings[layer].weight(convolution.state_dict(), weight_shape(convolution))
