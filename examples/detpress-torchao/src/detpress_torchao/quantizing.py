"""Int8 as PyTorch's torchao makes it for x86.

chain:
  - torchao.static: {calibration_images: 64}
"""

from typing import TYPE_CHECKING, Any, Literal

from detpress.api import Form, ImageCounts, Options, Plan, Plugin, TrainingConfig, Workbench
from pydantic import Field, field_validator

if TYPE_CHECKING:
    from detpress.api import Model


class StaticOptions(Options):
    """What is calibrated."""

    calibration_images: int = Field(64, ge=1, description="training images that activations' ranges are read from")
    full_range: bool = Field(
        False, description="weights use all of 8 bits, which x86 processors without VNNI or AMX compute wrong"
    )


class QatOptions(TrainingConfig, StaticOptions):
    """The training's options, and what is calibrated afterwards."""

    learning_rate: float = Field(3e-4, gt=0, le=1, description="the highest, after the warm-up; of a trained network")
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        "32-true", description="fake-quantizers compute in float32 only, so nothing else is taken"
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


class TorchaoPlugin(Plugin):
    """What both have in common: every convolution of a dense model becomes int8."""

    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "torchao"

    def plan(self, model: "Model", config: Any) -> Plan:
        from detpress.api import Convolution

        named = zip(model.architecture.names, model.architecture.layers, strict=True)
        return Plan(tuple(name for name, layer in named if isinstance(layer, Convolution)), model)

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_asked(config, "calibration_images")


class Static(TorchaoPlugin):
    """Weights and activations in 8 bits, by torchao's PT2E quantization for x86.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877, 2018, by `prepare_pt2e` and `convert_pt2e` with the `X86InductorQuantizer`: weights symmetric, one
    scale a filter; activations with a zero of their own, the range in which a histogram of the values loses least
    (squared error). Changed: weights have 7 bits unless `full_range`; scales may be smaller than 2^-12. Convolutions
    alone are rounded by torchao's scales; what is added or pooled has scales that detpress reads from the same images.
    """

    Config = StaticOptions

    def apply(self, model: "Model", config: StaticOptions, bench: Workbench) -> "Model":
        from detpress_torchao.programs import quantized

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        return quantized(model, images, config.full_range, bench.log)


class QuantizationAware(TorchaoPlugin):
    """Fine-tunes with torchao's rounding in the loop, then quantizes as torchao.static does.

    Jacob et al., as above, by `prepare_qat_pt2e`: every weight and input of a convolution passes a fake-quantizer,
    BatchNorm is folded inside of it and still learns. Changed: the final ranges are calibrated on the trained weights,
    because a training ends with their moving average, which no fake-quantizer has seen.
    """

    Config = QatOptions

    def apply(self, model: "Model", config: QatOptions, bench: Workbench) -> "Model":
        from dataclasses import replace

        from detpress_torchao.programs import fake_quantized, quantized, with_weights_of

        prepared = fake_quantized(model.own_network, config.full_range, bench.log)
        trained = bench.fit(replace(model, network=prepared), config).network
        found = model.with_network(with_weights_of(model.own_network, trained))
        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        return quantized(found, images, config.full_range, bench.log)
