"""Maps without their mean and scale, channel by channel."""

from dataclasses import dataclass

from torch import Tensor

CONSTANT = 1e-4  # a deviation up to it is none: a masked filter gives one number everywhere, and no direction to learn


@dataclass(frozen=True)
class Moments:
    """Of each channel over images and places, (1, C, 1, 1). deviation: at least `CONSTANT`. varies: bool."""

    mean: Tensor
    deviation: Tensor
    varies: Tensor


def moments(maps: Tensor) -> Moments:
    """maps: float32 (N, C, H, W)."""
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    variance = (maps - mean).square().mean(dim=(0, 2, 3), keepdim=True)
    return Moments(mean, variance.clamp(min=CONSTANT**2).sqrt(), variance > CONSTANT**2)


def standardised(maps: Tensor, like: Moments) -> Tensor:
    """Maps (N, C, H, W) without their own mean and scale; 0, without a gradient, where a channel is constant."""
    return (maps - like.mean) / like.deviation * like.varies
