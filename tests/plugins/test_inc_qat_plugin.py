"""`inc.qat` as a recipe uses it, with the one trainer."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.encodings.int8 import input_scales
from detpress.plugins.inc_qat import QatOptions, QuantizationAwareTraining
from detpress.training.trainer import TrainingContext, fit
from detpress.voc.devkit import Devkit, open_devkit
from detpress.voc.digits import write_digits


@dataclass
class Bench:
    devkit: Devkit
    scratch: Path
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tests.inc_qat"))

    def fit(self, model: Model, training: QatOptions) -> Model:
        context = TrainingContext(self.devkit, "train", 0, self.scratch, self.log, lambda *_: None)
        return fit(model, training, context)

    def calibration(self, images: int, or_fewer: bool = False) -> Tensor:
        return torch.rand(images, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_network_trained_with_rounding_in_the_loop_ends_in_int8(tmp_path: Path) -> None:
    write_digits(tmp_path / "devkit", {"train": 8})
    devkit = open_devkit(tmp_path / "devkit")
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.1), seed=0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = QatOptions(epochs=2, batch_size=4, calibration_images=4, float_layers=["layers.0"])
    after = QuantizationAwareTraining().apply(model, options, Bench(devkit, scratch))
    assert after.form is Form.INT8
    assert set(input_scales(after.network)) == {2, 4, 6, 8, 10, 12, 13, 14, 15, 18, 21, 22}
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert all(raw.isfinite().all() for raw in after.network(image))


def test_fake_quantizers_compute_in_float32_only() -> None:
    with pytest.raises(ValidationError, match="expected 32-true"):
        QatOptions(epochs=1, precision="bf16-mixed")
