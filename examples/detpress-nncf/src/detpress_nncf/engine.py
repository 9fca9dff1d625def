"""NNCF at work on a detpress network; what it makes is read back by `graph`."""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import nncf
import openvino
import torch
from detpress.api import (
    Architecture,
    Form,
    Model,
    Network,
    Packed,
    StageError,
    engine_messages,
    int8_network,
    with_encoded,
)
from nncf.quantization.advanced_parameters import (
    AdvancedAccuracyRestorerParameters,
    AdvancedQuantizationParameters,
    OverflowFix,
    QuantizationParameters,
)
from torch import Tensor, nn

from detpress_nncf.graph import convolutions, in_openvino

if TYPE_CHECKING:
    from detpress_nncf.quantizing import ControlOptions, QuantizingOptions


class InOpenVino(nn.Module):
    """A compiled graph that gives raw maps as the network does, so that detpress scores it as any other."""

    def __init__(self, compiled: openvino.CompiledModel, architecture: Architecture) -> None:
        super().__init__()
        self.compiled, self.architecture = compiled, architecture

    def __deepcopy__(self, memo: Any) -> "InOpenVino":
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(raw.copy()) for raw in self.compiled(images.numpy()).values()]


def quantized(model: Model, images: Tensor, config: "QuantizingOptions", log: logging.Logger) -> Model:
    """In int8. images: float32 (N, 3, H, W) in [0, 1], to calibrate with."""
    with engine_messages(log, "nncf"):
        found = quantized_graph(model.own_network, images, config)
    return from_graph(model, found, images, log)


def quantized_graph(network: Network, images: Tensor, config: "QuantizingOptions") -> openvino.Model:
    """NNCF's own, to be run by OpenVINO."""
    return nncf.quantize(
        in_openvino(network, images),
        _dataset(images),
        preset=nncf.QuantizationPreset(config.preset),
        subset_size=len(images),
        fast_bias_correction=config.fast_bias_correction,
        advanced_parameters=_advanced(config),
    )


def quantized_within(
    model: Model, images: Tensor, config: "ControlOptions", score: Callable[[Model], float], log: logging.Logger
) -> Model:
    """In int8, but for the convolutions without which in float `score` would lose more than is allowed."""

    def validate(compiled: openvino.CompiledModel, items: Iterable[Any]) -> tuple[float, None]:
        return float(score(model.with_network(InOpenVino(compiled, model.architecture), Form.DENSE))), None

    with engine_messages(log, "nncf"):
        found = nncf.quantize_with_accuracy_control(
            in_openvino(model.own_network, images),
            _dataset(images),
            _dataset(images[:1]),  # `validate` has validation images of its own
            validate,
            max_drop=config.max_drop,
            preset=nncf.QuantizationPreset(config.preset),
            subset_size=len(images),
            fast_bias_correction=config.fast_bias_correction,
            advanced_quantization_parameters=_advanced(config),
            advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(num_ranking_workers=1),
        )
    return from_graph(model, found, images, log)


def from_graph(model: Model, graph: openvino.Model, images: Tensor, log: logging.Logger) -> Model:
    """The model with weights, biases and scales as they stand in the graph."""
    read = convolutions(graph)
    folded = {i: (one.weight, one.bias) for i, one in read.items()}
    scales = {i: one.scale for i, one in read.items() if one.scale is not None}
    if not scales:
        raise StageError("NNCF left every convolution in float")
    inputs = {}
    for i in scales:
        if (rounding := read[i].input) is None:
            raise StageError(f"layers.{i}: its weights are quantized, but how its input is was not found")
        inputs[i] = rounding
    log.info("%d of %d convolutions in int8", len(inputs), len(read))
    return model.with_network(int8_network(model.own_network, inputs, images, scales, folded), Form.INT8)


def with_small_weights(network: Network, images: Tensor, symmetric: bool, log: logging.Logger) -> Network:
    """Weights in 8 bits, computed with in float."""
    mode = nncf.CompressWeightsMode.INT8_SYM if symmetric else nncf.CompressWeightsMode.INT8_ASYM
    with engine_messages(log, "nncf"):
        read = convolutions(nncf.compress_weights(in_openvino(network, images), mode=mode))
    packing = Packed(8, -1, symmetric)
    layers = {}
    for i, one in read.items():
        if one.scale is None:
            raise StageError(f"NNCF left the weights of layer {i} in float")
        codes = (one.codes + 128 if symmetric else one.codes).flatten(1).to(torch.uint8)
        tensors = {"codes": codes, "scale": one.scale[:, None].half(), "bias": one.bias}
        tensors["gain"] = torch.ones(len(codes))
        if not symmetric:
            tensors["zero"] = one.zero[:, None].half()
        layers[i] = (packing, tensors)
    return with_encoded(network, layers)


def _dataset(images: Tensor) -> nncf.Dataset:
    return nncf.Dataset([image[None].numpy() for image in images])


def _advanced(config: "QuantizingOptions") -> AdvancedQuantizationParameters:
    return AdvancedQuantizationParameters(
        overflow_fix=OverflowFix(config.overflow_fix),
        activations_quantization_params=QuantizationParameters(per_channel=False),  # depthwise convolutions' too
    )
