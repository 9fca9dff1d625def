"""Pictures with boxes: their size."""

import torch

from detpress.report.pictures import draw_boxes


def test_a_panel_of_a_wide_photograph_is_shrunk_with_its_boxes() -> None:
    image = torch.zeros(3, 20, 13500, dtype=torch.uint8)
    panel = draw_boxes(image, torch.tensor([[6750.0, 0.0, 13499.0, 19.0]]), ["cat"], ["cat"], "truth", [""])
    assert panel.shape[-1] == 640
    assert panel.shape[-2] < 40
    assert not panel[:, 16:, :310].any()
    assert panel[:, 16:, 310:].any()
