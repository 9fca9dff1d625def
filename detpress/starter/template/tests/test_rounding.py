"""What the plugin promises: its arithmetic, on numbers."""

import torch

from detpress_mine_round.rounding import rounded


def test_each_weight_becomes_the_nearest_multiple() -> None:
    assert rounded(torch.tensor([-0.3, 0.1, 0.125, 0.2]), 0.25).tolist() == [-0.25, 0.0, 0.0, 0.25]
