"""Int8 as Intel's NNCF makes it for OpenVINO.

chain:
  - nncf.ptq: {calibration_images: 64}
"""

from typing import TYPE_CHECKING, Any, Literal

from detpress.api import Form, ImageCounts, Options, Plan, Plugin, Workbench
from pydantic import Field

if TYPE_CHECKING:
    from detpress.api import Model


class QuantizingOptions(Options):
    """How ranges become scales, in NNCF's words."""

    calibration_images: int = Field(64, ge=1, description="training images that activations' ranges are read from")
    preset: Literal["performance", "mixed"] = Field(
        "performance", description="activations symmetric where they are ever negative; mixed: all with their own zero"
    )
    fast_bias_correction: bool = Field(True, description="false: layer by layer, slower and finer")
    overflow_fix: Literal["enable", "first_layer_only", "disable"] = Field(
        "enable",
        description="which convolutions have weights of 7 bits, as x86 without VNNI or AMX needs (NNCF's "
        "default is first_layer_only)",
    )


class ControlOptions(QuantizingOptions):
    """What may be lost."""

    max_drop: float = Field(0.01, gt=0, lt=1, description="of mAP, a fraction, on validation images")


class CompressionOptions(Options):
    """Which 8 bits."""

    symmetric: bool = Field(False, description="the zero in the middle of the codes, and not stored")


class NncfPlugin(Plugin):
    """What the three have in common: a plan that touches every convolution."""

    accepts = frozenset({Form.DENSE})
    engine = "nncf"

    def plan(self, model: "Model", config: Any) -> Plan:
        from detpress.api import Convolution

        named = zip(model.architecture.names, model.architecture.layers, strict=True)
        return Plan(tuple(name for name, layer in named if isinstance(layer, Convolution)), model)


class PostTraining(NncfPlugin):
    """Weights and activations in 8 bits, by NNCF's post-training quantization.

    `nncf.quantize` (Intel, Neural Network Compression Framework; Kozlov et al., "Neural Network Compression Framework
    for fast model inference", arXiv:2002.08679, 2020) on the network in OpenVINO: weights symmetric, one scale a filter;
    activations one scale a tensor, from the mean of the images' smallest and largest values; biases corrected for what
    rounding moves means by. Codes, scales and biases are read back from its graph, so that the model runs in every
    runtime. Changed: convolutions alone are rounded by NNCF's scales; what is added, or brought to another size to be put
    beside something, has scales that detpress reads from the same images. Weights have 7 bits (`overflow_fix`), and
    depthwise convolutions' inputs one scale, where NNCF gives each channel its own.
    """

    Config = QuantizingOptions
    returns = Form.INT8

    def check(self, model: "Model", config: QuantizingOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: QuantizingOptions, bench: Workbench) -> "Model":
        from detpress_nncf.engine import quantized

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        return quantized(model, images, config, bench.log)


class AccuracyControl(NncfPlugin):
    """The same, but convolutions go back to float, the most sensitive first, until mAP is lost by no more than asked.

    `nncf.quantize_with_accuracy_control`; mAP is by the recipe's protocol on the validation images, computed in
    OpenVINO by NNCF's own graph. NNCF ranks the layers by what mAP is without the rounding of each, and where `max_drop`
    cannot be met ends in float, which is an error here.
    """

    Config = ControlOptions
    returns = Form.INT8

    def check(self, model: "Model", config: ControlOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")
        images.check_validation()

    def apply(self, model: "Model", config: ControlOptions, bench: Workbench) -> "Model":
        from detpress_nncf.engine import quantized_within

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        return quantized_within(model, images, config, lambda one: float(bench.evaluate(one)), bench.log)


class WeightCompression(NncfPlugin):
    """Weights stored in 8 bits and computed with in float.

    `nncf.compress_weights` with the modes INT8_ASYM and INT8_SYM, one scale a filter in float16. No images are needed.
    Its modes of 4 bits are for matrix products alone. Only the bundle gets smaller.
    """

    Config = CompressionOptions
    returns = Form.PACKED

    def apply(self, model: "Model", config: CompressionOptions, bench: Workbench) -> "Model":
        from detpress_nncf.engine import with_small_weights

        images = bench.calibration(1)
        network = with_small_weights(model.own_network, images, config.symmetric, bench.log)
        return model.with_network(network, Form.PACKED)
