"""Quantization-aware training: the real torchao flow, ending in the network that static quantization gives."""

import copy
import logging

import pytest
import torch
from torch import Tensor

from detpress.adapters.inc import Scheme, quantize_static
from detpress.adapters.inc_qat import fake_quantized, to_int8
from detpress.detector.architecture import build_architecture
from detpress.model import Model, new_model

LOG = logging.getLogger("tests.inc_qat")
LOG.addHandler(logging.NullHandler())


@pytest.fixture(scope="module")
def tiny(images: Tensor) -> Model:
    model = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
    model.network.train()
    with torch.no_grad():
        for _ in range(20):
            model.network(images)
    model.network.eval()
    return model


def test_without_a_step_it_is_static_quantization_and_with_some_it_has_learned(tiny: Model, images: Tensor) -> None:
    before = copy.deepcopy(tiny.network.state_dict())
    network = fake_quantized(tiny.network, tiny.architecture.heads, LOG)
    static = quantize_static(tiny.network, tiny.architecture, images, Scheme(), tiny.architecture.heads, LOG)

    untrained = to_int8(copy.deepcopy(network), images, LOG)
    assert untrained.quantization.inputs.keys() == static.quantization.inputs.keys()
    for i, scale in static.quantization.inputs.items():
        assert untrained.quantization.inputs[i].scale == pytest.approx(scale.scale, rel=0.02)
        name = f"layers.{i}.convolution.weight_scale"
        torch.testing.assert_close(untrained.get_buffer(name), static.get_buffer(name), rtol=1e-3, atol=1e-9)

    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss = torch.stack([raw.square().mean() for raw in network(images)]).sum()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    trained = to_int8(network, images, LOG)  # holds its bits against torchao's program itself
    assert any(not torch.equal(one, other) for one, other in zip(trained.buffers(), untrained.buffers(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.network.state_dict().items())
