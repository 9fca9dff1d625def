"""Int8 as the quantizer of one version of ONNX Runtime makes it, whichever is installed beside detpress.

chain:
  - onnxruntime_1_17.static: {method: entropy}
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
    """Weights and activations in 8 bits by the static quantization of a pinned ONNX Runtime, in its own environment.

    `onnxruntime.quantization.quantize_static` (Microsoft) to Q/DQ: weights int8, symmetric, one scale a filter;
    activations uint8 with a zero of their own. Changed: weights have 7 bits unless `full_range` (its `reduce_range`);
    biases stay in float. Convolutions alone are rounded by its scales; what is added or pooled has scales that detpress
    reads from the same images. `entropy` and `percentile` hold every map of every calibration image in memory.
    """

    Config = StaticOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8

    def plan(self, model: "Model", config: StaticOptions) -> Plan:
        from detpress.api import Convolution

        named = zip(model.architecture.names, model.architecture.layers, strict=True)
        return Plan(tuple(name for name, layer in named if isinstance(layer, Convolution)), model)

    def check(self, model: "Model", config: StaticOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: StaticOptions, bench: Workbench) -> "Model":
        import numpy as np
        import torch
        from detpress.api import InputScale, StageError, int8_network, onnx_model

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        written, kept = bench.scratch / "float.onnx", bench.scratch / "images.npy"
        written.write_bytes(onnx_model(model).SerializeToString())
        np.save(kept, images.numpy())
        found = bench.in_environment(
            "detpress_onnxruntime_versions.inside:quantize",
            model=written,
            images=kept,
            method=config.method,
            full_range=config.full_range,
        )
        if not found:
            raise StageError("ONNX Runtime quantized no convolution")
        bench.log.info("%d convolutions in int8", len(found))
        inputs = {each["layer"]: InputScale(each["scale"], each["zero_point"]) for each in found}
        scales = {each["layer"]: torch.tensor(each["weight_scales"]) for each in found}
        return model.with_network(int8_network(model.own_network, inputs, images, scales), Form.INT8)


class Static117(Static):
    __doc__ = f"ONNX Runtime 1.17.3. {Static.__doc__}"
    requirements = ("onnxruntime==1.17.3", "onnx==1.16.2", "numpy<2")


class Static120(Static):
    __doc__ = f"ONNX Runtime 1.20.1. {Static.__doc__}"
    requirements = ("onnxruntime==1.20.1", "onnx==1.17.0", "numpy<2")
