"""Quantization-aware training."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.plugins.inc import LayerOptions, layers_in_float, layers_to_quantize, plan_of_int8
from detpress.training.config import TrainingConfig
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.model import Model


class QatOptions(TrainingConfig, LayerOptions):
    """The training's options, and what stays in float."""

    learning_rate: float = Field(3e-4, gt=0, le=1, description="the highest, after the warm-up; of a trained network")
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        "32-true", description="fake-quantizers compute in float32 only, so nothing else is taken"
    )
    calibration_images: int = Field(64, ge=1, description="training images that the final ranges are read from")
    full_range: bool = Field(
        False,
        description="weights use all of 8 bits, which x86 processors without VNNI or AMX compute wrong",
    )

    @field_validator("precision")
    @classmethod
    def _float32(cls, precision: str) -> str:
        if precision != "32-true":
            raise ValueError("expected 32-true: fake-quantizers compute in float32 only")
        return precision

    @field_validator("frozen")
    @classmethod
    def _none_frozen(cls, frozen: list[str]) -> list[str]:
        if frozen:
            raise ValueError("expected none: the exported network has no layers that could be held")
        return frozen


class QuantizationAwareTraining(Plugin):
    """Fine-tunes with rounding in the loop, and ends in int8.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877, 2018: weights and activations pass fake-quantizers, which round forwards and pass gradients
    backwards as if they were not there; BatchNorm is folded into the rounded weights while it still learns. Intel
    Neural Compressor's own `prepare_qat` knows Linear layers only, so this is PyTorch's flow (torchao, PyTorch 2
    export) with the quantizer that INC's static quantization uses, and INC's static quantization of the trained weights
    (`inc.static_int8` with its default scheme but `corrected: false`: they were trained with rounding).
    Unlike the paper, the ranges of activations are learned from the first step on, biases stay in float, and the final
    ranges are read from calibration images once the moving average of the weights is taken.
    """

    Config = QatOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "torchao"
    version = 5

    def plan(self, model: "Model", config: QatOptions) -> Plan:
        return plan_of_int8(model, layers_to_quantize(model.architecture, config))

    def check(self, model: "Model", config: QatOptions, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: QatOptions, bench: Workbench) -> "Model":
        from dataclasses import replace

        from detpress.adapters.inc import Scheme, quantize_static
        from detpress.adapters.inc_qat import FakeQuantizedNetwork, fake_quantized, with_trained_weights

        in_float = layers_in_float(model.architecture, config)
        prepared = fake_quantized(model.own_network, in_float, config.full_range, bench.log)
        trained = bench.fit(replace(model, network=prepared, masks=prepared.masks), config).network
        assert isinstance(trained, FakeQuantizedNetwork)
        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        network = with_trained_weights(model.own_network, trained)
        scheme = Scheme(corrected=False, full_range=config.full_range)  # trained with rounding, not to be undone
        quantized = quantize_static(network, model.architecture, images, scheme, in_float, bench.log)
        return model.with_network(quantized, Form.INT8)
