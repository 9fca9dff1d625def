"""Int8 as ONNX Runtime's quantizers make it.

chain:
  - onnxruntime.static: {method: percentile}
"""

from typing import TYPE_CHECKING, Any, Literal

from detpress.api import Form, ImageCounts, Options, Plan, Plugin, Workbench
from pydantic import Field

if TYPE_CHECKING:
    from detpress.api import Model


class DynamicOptions(Options):
    """How wide weights are."""

    full_range: bool = Field(
        False, description="weights use all of 8 bits, which x86 processors without VNNI or AMX compute wrong"
    )


class StaticOptions(DynamicOptions):
    """What is calibrated, and how."""

    calibration_images: int = Field(64, ge=1, description="training images that activations' ranges are read from")
    method: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax",
        description="range of an activation: all that was seen, the same (as ONNX Runtime calls its entropy "
        "calibration), or all but a thousandth of a percent",
    )


class OnnxRuntimePlugin(Plugin):
    """What both have in common: every convolution of a dense model is touched."""

    accepts = frozenset({Form.DENSE})
    engine = "onnxruntime"

    def plan(self, model: "Model", config: Any) -> Plan:
        from detpress.api import Convolution

        named = zip(model.architecture.names, model.architecture.layers, strict=True)
        return Plan(tuple(name for name, layer in named if isinstance(layer, Convolution)), model)


class Static(OnnxRuntimePlugin):
    """Weights and activations in 8 bits, by ONNX Runtime's static quantization.

    `onnxruntime.quantization.quantize_static` (Microsoft) to Q/DQ: weights int8, symmetric, one scale a filter;
    activations uint8 with a zero of their own, their range by one of its calibrations. `entropy` is meant to be Migacz,
    "8-bit Inference with TensorRT", GTC 2017, but has no other range to choose than that of `minmax`: as called here,
    there are as many bins in the histogram as in what it is compared with. Changed: weights have 7 bits unless
    `full_range` (its `reduce_range`); biases stay in float. Convolutions alone are rounded by its scales; what is added
    or pooled has scales that detpress reads from the same images. `entropy` and `percentile` hold every map of every
    calibration image in memory.
    """

    Config = StaticOptions
    returns = Form.INT8

    def check(self, model: "Model", config: StaticOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: StaticOptions, bench: Workbench) -> "Model":
        from detpress_onnxruntime.engine import quantized

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        return quantized(model, images, config, bench.scratch / "onnxruntime", bench.log)


class Dynamic(OnnxRuntimePlugin):
    """Weights in 8 bits, activations rounded to 8 bits by the range that they have in each run.

    `onnxruntime.quantization.quantize_dynamic` of convolutions: weights int8, symmetric, one scale for all of a layer
    (its convolutions have no other); inputs uint8, their range searched over the batch in every run, so that no images
    are needed. ONNX Runtime computes it in integers (DynamicQuantizeLinear, ConvInteger), the other runtimes in float on
    rounded numbers, and mAP is scored so: the form is `simulated`. Changed: weights have 7 bits unless `full_range`.
    """

    Config = DynamicOptions
    returns = Form.SIMULATED

    def apply(self, model: "Model", config: DynamicOptions, bench: Workbench) -> "Model":
        from detpress_onnxruntime.engine import quantized_dynamically

        return quantized_dynamically(model, config.full_range, bench.scratch / "onnxruntime", bench.log)
