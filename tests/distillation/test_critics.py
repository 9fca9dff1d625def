"""Critics on tensors: their shape, what they learn, and what holds them."""

import pytest
import torch
from torch import Tensor, nn

from detpress.distillation.critics import clip_weights, critic_loss, new_critic

LIMIT = 0.03


def maps(seed: int, mean: float) -> Tensor:
    return mean + torch.randn(8, 16, 5, 5, generator=torch.Generator().manual_seed(seed))


def convolutions(critic: nn.Module) -> list[nn.Conv2d]:
    return [module for module in critic.modules() if isinstance(module, nn.Conv2d)]


def test_it_is_the_published_one_for_the_published_map() -> None:
    found = [
        (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions(new_critic(512, 16, 16))
    ]
    assert found == [(512, 512, 3, 1), *[(512, 512, 3, 2)] * 3, (512, 1, 2, 1)]


@pytest.mark.parametrize(
    ("channels", "side", "width", "count"),
    [(1024, 1, 512, 2), (64, 2, 64, 2), (32, 5, 32, 4), (8, 13, 8, 5), (4, 20, 4, 6), (4, 52, 4, 7)],
)
def test_it_is_scaled_to_the_map_and_gives_a_number_an_image(channels: int, side: int, width: int, count: int) -> None:
    critic = new_critic(channels, side, side)
    assert critic(torch.zeros(3, channels, side, side)).shape == (3,)
    assert len(convolutions(critic)) == count
    assert {c.out_channels for c in convolutions(critic)} == {width, 1}


def test_the_loss_is_low_where_the_teachers_maps_get_less_than_the_students() -> None:
    assert float(critic_loss(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0]))) == 1.5 - 6
    same = torch.tensor([3.0, -1.0])
    assert float(critic_loss(same, same)) == 0, "as of a critic that always says the same"


def test_it_tells_two_fixed_sets_apart_though_its_weights_are_clipped() -> None:
    torch.manual_seed(0)
    critic, teacher, student = new_critic(16, 5, 5), maps(1, mean=0.2), maps(2, mean=-0.2)
    clip_weights(critic, LIMIT)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-4, betas=(0.5, 0.999))
    losses = []
    for _ in range(60):
        loss = critic_loss(critic(teacher), critic(student))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        clip_weights(critic, LIMIT)
        losses.append(float(loss.detach()))
        assert all(float(parameter.detach().abs().max()) <= LIMIT for parameter in critic.parameters())
    assert abs(losses[0]) < 0.01
    assert losses[-1] < -1, "a constant critic has 0"
    assert float(critic(teacher).max().detach()) < float(critic(student).min().detach())
