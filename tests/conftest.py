"""Small detectors that several tests share; a test that changes one takes a copy."""

import logging

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.model import Model, new_model
from detpress.plugin import Form


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Noise over shades of grey: float32 (20, 3, 64, 64) in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    shades = torch.rand(20, 3, 1, 1, generator=generator)
    return (shades + 0.4 * torch.rand(20, 3, 64, 64, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="session")
def dense_model(images: Tensor) -> Model:
    """A YOLOv3 with random weights whose BatchNorms have seen images, as trained ones have."""
    model = new_model(build_architecture("yolov3", ["cat", "dog"], 64, width=0.0625), seed=0)
    model.network.train()
    with torch.no_grad():
        for _ in range(20):
            model.network(images)
    model.network.eval().requires_grad_(False)
    return model


@pytest.fixture(scope="session")
def int8_model(dense_model: Model, images: Tensor) -> Model:
    """`dense_model`, quantized by the real Intel Neural Compressor."""
    from detpress.adapters.inc import Scheme, quantize_static

    log = logging.getLogger("tests.inc")
    network = quantize_static(dense_model.network, dense_model.architecture, images, Scheme(), (), log)
    return dense_model.with_network(network, Form.INT8)
