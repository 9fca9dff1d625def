"""What the plugin promises: its arithmetic, on numbers; and the contract with detpress, on small detectors."""

import pytest
import torch
from detpress.testing import PluginCheck, checks_of

from detpress_mine_round.rounding import rounded


def test_each_weight_becomes_the_nearest_multiple() -> None:
    assert rounded(torch.tensor([-0.3, 0.1, 0.125, 0.2]), 0.25).tolist() == [-0.25, 0.0, 0.0, 0.25]


@pytest.mark.parametrize("check", checks_of("mine.round", {"step": 0.05}), ids=str)
def test_the_plugin_keeps_its_promises(check: PluginCheck) -> None:
    check()
