"""From simulated quantization to integers that runtimes execute."""

from typing import TYPE_CHECKING

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.model import Model


class Int8Options(Options):
    """What the scales that quantization in training did not set are read from."""

    calibration_images: int = Field(64, ge=1, description="training images that the missing ranges are read from")
    full_range: bool = Field(
        False,
        description="weights keep all codes of 8 bits, which x86 processors without VNNI or AMX compute wrong",
    )


class Int8(Plugin):
    """Executes in 8-bit integers what was simulated, by the scales that were trained.

    Weights have codes from -64 to 64 but for depthwise convolutions: a filter with larger ones gets steps up to twice
    as coarse, unless `full_range` keeps every code as it was trained. Inputs that were left in float get the range that
    is seen on training images, as do the tensors between convolutions; convolutions that were not quantized stay in
    float. A zero point that is no integer (LSQ+ learns such) is rounded to the next one. Refused is what no runtime
    executes in 8-bit integers: fewer than 8 bits, which would be stored and computed as 8, and zero points of weights.
    """

    Config = Int8Options
    accepts = frozenset({Form.SIMULATED})
    returns = Form.INT8
    version = 2

    def plan(self, model: "Model", config: Int8Options) -> Plan:
        from detpress.detector.input_scale import InputScale
        from detpress.detector.network import Network
        from detpress.encodings.deployment import deployable
        from detpress.encodings.int8 import Int8
        from detpress.encodings.simulated import with_zeros_of

        layers = deployable(model.network)
        encodings = model.encodings | dict.fromkeys(layers, Int8(InputScale(1.0, 0)))
        network = with_zeros_of(Network(model.architecture, encodings), model.network)
        return Plan(tuple(model.architecture.names[i] for i in layers), model.with_network(network, Form.INT8))

    def check(self, model: "Model", config: Int8Options, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: Int8Options, bench: Workbench) -> "Model":
        from detpress.encodings.deployment import deployed
        from detpress.encodings.int8 import input_scales

        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        network = deployed(model.network, images, config.full_range)
        bench.log.info("%d convolutions in int8", len(input_scales(network)))
        return model.with_network(network, Form.INT8)
