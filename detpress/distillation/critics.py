"""Critics: small networks that tell a teacher's maps from a student's by one number an image."""

import torch
from torch import Tensor, nn

WIDEST = 512  # channels of the published critics, which see maps of 512 and more


def new_critic(channels: int, height: int, width: int) -> nn.Sequential:
    """Convolutions from maps (N, channels, height, width) down to a number an image: (N,).

    The published one has five of 512 channels for maps of 16 x 16: the first keeps the side, three halve it to 2, the
    last one makes a number of what is left. Other sides have as many halvings as it takes, and narrower maps a critic
    of their own width.
    """
    own = min(WIDEST, channels)
    layers: list[nn.Module] = [nn.Conv2d(channels, own, 3, padding=1), nn.LeakyReLU(0.2)]
    while max(height, width) > 2:
        layers += [nn.Conv2d(own, own, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        height, width = -(-height // 2), -(-width // 2)
    return nn.Sequential(*layers, nn.Conv2d(own, 1, (height, width)), nn.Flatten(start_dim=0))


def critic_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """What a critic steps on, of its numbers for maps of both, (N,) each; the teacher's become low, the student's high.

    It is minus the distance of the two sets of maps that this critic sees (Wasserstein GAN), with the sign of Wang et
    al.: a student minimises its own mean.
    """
    return teacher.mean() - student.mean()


@torch.no_grad()
def clip_weights(critics: nn.Module, limit: float) -> None:
    """Brings every weight and bias, in place, between -limit and limit: what keeps the critics' slope finite."""
    for parameter in critics.parameters():
        parameter.clamp_(-limit, limit)
