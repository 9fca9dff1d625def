"""PKD on tensors: what it sees of two maps, and what it does not."""

import torch
from torch import Tensor

from detpress.distillation.pkd import best_scores, pkd_loss, scores_at

SCALE = torch.tensor([0.5, 3.0, 20.0, 1.0]).view(1, 4, 1, 1)
SHIFT = torch.tensor([-7.0, 0.0, 2.0, 100.0]).view(1, 4, 1, 1)


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (3, 4, 5, 6), generator=torch.Generator().manual_seed(seed))


def test_it_is_one_minus_the_correlation_of_each_channel() -> None:
    ours, theirs = maps(0), maps(1)
    by_channel = [
        1 - torch.corrcoef(torch.stack([ours[:, c].flatten(), theirs[:, c].flatten()]))[0, 1] for c in range(4)
    ]
    torch.testing.assert_close(pkd_loss(ours, theirs), torch.stack(by_channel).mean())


def test_neither_scale_nor_shift_of_either_map_counts() -> None:
    ours, theirs = maps(0), maps(1)
    loss = pkd_loss(ours, theirs)
    torch.testing.assert_close(pkd_loss(ours * SCALE + SHIFT, theirs), loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(pkd_loss(ours, theirs * SCALE + SHIFT), loss, rtol=1e-4, atol=0)
    assert float(pkd_loss(theirs * SCALE + SHIFT, theirs)) < 1e-6
    assert float(pkd_loss(-theirs, theirs)) > 1.99


def test_a_constant_channel_is_left_out_and_has_no_gradient() -> None:
    ours, theirs = maps(0), maps(1)
    masked = ours.clone()
    masked[:, 1] = 0.25
    masked.requires_grad_(True)
    loss = pkd_loss(masked, theirs)
    others = [0, 2, 3]
    torch.testing.assert_close(loss, pkd_loss(ours[:, others], theirs[:, others]))
    [gradient] = torch.autograd.grad(loss, masked)
    assert gradient.isfinite().all()
    assert not gradient[:, 1].any()
    assert gradient[:, 0].any()
    nothing = torch.zeros(1, 2, 1, 1, requires_grad=True)
    [gradient] = torch.autograd.grad(pkd_loss(nothing, maps(1, 1, 2, 1, 1)), nothing)
    assert not gradient.any()


def test_weights_say_which_places_count() -> None:
    ours, theirs = maps(0), maps(1)
    torch.testing.assert_close(pkd_loss(ours, theirs, torch.full((3, 5, 6), 0.3)), pkd_loss(ours, theirs))
    here = torch.zeros(3, 5, 6)
    here[0, 2, 3] = 0.5
    distance = [
        ((m - m.mean((0, 2, 3), keepdim=True)) / m.std((0, 2, 3), keepdim=True, correction=0))[0, :, 2, 3]
        for m in (ours, theirs)
    ]
    expected = ((distance[0] - distance[1]) ** 2).mean() / 2
    torch.testing.assert_close(pkd_loss(ours, theirs, here), expected)


def test_the_best_score_of_a_place_is_that_of_any_box_and_class() -> None:
    raw = torch.full((1, 2 * 7, 2, 2), -20.0)
    raw[0, 7 + 4, 1, 0], raw[0, 7 + 6, 1, 0] = 20.0, 0.0  # second box: objectness 1, second class 1/2
    expected = torch.tensor([[[0.0, 0.0], [0.5, 0.0]]])
    torch.testing.assert_close(best_scores(raw, 2), expected)
    torch.testing.assert_close(scores_at([raw, maps(0, 1, 14, 8, 8)], torch.zeros(1, 9, 2, 2), 2), expected)
    assert scores_at([raw], torch.zeros(1, 9, 3, 3), 2).shape == (1, 3, 3)
