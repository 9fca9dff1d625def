"""Int8 as ONNX Runtime's quantizer makes it.

chain:
  - onnxruntime.static: {method: percentile}
"""

from typing import TYPE_CHECKING, Literal

from detpress.api import Form, ImageCounts, Options, Plan, Plugin, Workbench
from pydantic import Field

if TYPE_CHECKING:
    from detpress.api import Model


class StaticOptions(Options):
    """What is calibrated, and how."""

    calibration_images: int = Field(64, ge=1, description="training images that activations' ranges are read from")
    method: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax",
        description="range of an activation: all that was seen, what keeps most of its histogram's information, or "
        "all but a thousandth of a percent",
    )
    full_range: bool = Field(
        False, description="weights use all of 8 bits, which x86 processors without VNNI or AMX compute wrong"
    )


class Static(Plugin):
    """Weights and activations in 8 bits, by ONNX Runtime's static quantization.

    `onnxruntime.quantization.quantize_static` (Microsoft) to Q/DQ: weights int8, symmetric, one scale a filter;
    activations uint8 with a zero of their own, their range by one of its calibrations. `entropy` is Migacz, "8-bit
    Inference with TensorRT", GTC 2017. Changed: weights have 7 bits unless `full_range` (its `reduce_range`); biases
    stay in float. Convolutions alone are rounded by its scales; what is added or pooled has scales that detpress reads
    from the same images. `entropy` and `percentile` hold every map of every calibration image in memory.
    """

    Config = StaticOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "onnxruntime"

    def plan(self, model: "Model", config: StaticOptions) -> Plan:
        from detpress.api import Convolution

        named = zip(model.architecture.names, model.architecture.layers, strict=True)
        return Plan(tuple(name for name, layer in named if isinstance(layer, Convolution)), model)

    def check(self, model: "Model", config: StaticOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: StaticOptions, bench: Workbench) -> "Model":
        from detpress_onnxruntime.engine import quantized

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        return quantized(model, images, config, bench.scratch / "onnxruntime", bench.log)
