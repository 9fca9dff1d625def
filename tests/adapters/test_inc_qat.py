"""Quantization-aware training: the real torchao flow on a small network."""

import copy
import logging

import torch
from torch import Tensor

from detpress.adapters.inc import Scheme, calibrate, quantize_static
from detpress.adapters.inc_qat import fake_quantized, with_trained_weights
from detpress.detector.folding import batch_norm_of
from detpress.detector.model import Model, apply_masks

LOG = logging.getLogger("tests.inc_qat")
LOG.addHandler(logging.NullHandler())


def test_training_sees_what_int8_will_compute_and_every_weight_learns(tiny: Model, images: Tensor) -> None:
    before = copy.deepcopy(tiny.network.state_dict())
    heads = tiny.architecture.heads
    network = fake_quantized(tiny.network, heads, False, LOG)
    static = quantize_static(tiny.network, tiny.architecture, images, Scheme(), heads, LOG)
    calibrate(network.eval(), images)
    with torch.inference_mode():
        for one, other, dense in zip(network(images), static(images), tiny.network(images), strict=True):
            ratio = (one - dense).square().mean() / (other - dense).square().mean()
            assert 1.3 < ratio < 4, "the noise of 8 bits, no less and no more"

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
    trained = with_trained_weights(tiny.network, network).state_dict()
    assert all(not torch.equal(trained[name], before[name]) for name in trained if name.endswith("convolution.weight"))
    assert not torch.equal(trained["layers.2.norm.running_mean"], before["layers.2.norm.running_mean"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.network.state_dict().items())


def test_a_filter_whose_batch_norm_scale_is_zero_gives_its_bias_before_and_after(tiny: Model, images: Tensor) -> None:
    network = copy.deepcopy(tiny.network)
    with torch.no_grad():
        network.get_parameter("layers.2.norm.weight")[1] = 0
        network.get_parameter("layers.2.norm.bias")[1] = 0.25
    prepared = fake_quantized(network, (), False, LOG)
    calibrate(prepared.eval(), images)
    with torch.inference_mode():
        for one, dense in zip(prepared(images), network(images), strict=True):
            assert float((one - dense).square().mean() / dense.square().mean()) < 0.01

    prepared.train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack([raw.square().mean() for raw in prepared(images)]).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
        optimizer.step()
        apply_masks(prepared, prepared.masks)
    trained = with_trained_weights(network, prepared)
    assert all(tensor.isfinite().all() for tensor in trained.state_dict().values())
    gain, _ = batch_norm_of(trained, 2)
    assert not (trained.get_parameter("layers.2.convolution.weight")[1] * gain[1]).any()
