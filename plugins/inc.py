"""Intel Neural Compressor's quantization."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from detpress import plugin
from detpress.plugin import Form, Plan, Plugin, Workbench

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.model import Model


class StaticInt8Options(plugin.Config):
    """What is calibrated, how, and what stays in float."""

    calibration_images: int = Field(64, ge=1, description="training images that the activations' ranges are read from")
    algorithm: Literal["minmax", "kl"] = Field(
        "minmax", description="range of an activation: what was seen, or what loses least of its histogram"
    )
    symmetric: bool = Field(
        False, description="an activation's zero is the middle of its 256 values, whichever values it takes"
    )
    per_channel: bool = Field(True, description="one scale for each filter's weights; false: one for the whole layer's")
    float_layers: list[str] = Field([], description="patterns of layers kept in float, such as `layers.0`")
    float_heads: bool = Field(False, description="keep the convolutions that give the raw maps in float")


class StaticInt8(Plugin):
    """Weights and activations in 8-bit integers, their ranges calibrated on training images.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877, 2018, by Intel Neural Compressor's post-training static quantization (PyTorch 2 export):
    weights signed, symmetric, one scale a filter or a layer; activations unsigned, one scale and zero a tensor; BatchNorm
    folded. Ranges of activations: `minmax` is the mean over batches of the smallest and largest value; `kl` is the range
    in which the histogram of the values loses least by rounding, as INC names it (what runs is PyTorch's
    HistogramObserver, whose measure is the squared error, not the divergence of that name). The network takes any batch.
    The paper also keeps biases in integers and trains with quantization in the loop; here biases are float and
    nothing is trained.
    """

    Config = StaticInt8Options
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "neural-compressor"

    def plan(self, model: "Model", config: StaticInt8Options) -> Plan:
        from detpress.detector.architecture import Convolution

        in_float = layers_in_float(model.architecture, config)
        layers = [
            f"layers.{i}"
            for i, layer in enumerate(model.architecture.layers)
            if isinstance(layer, Convolution) and i not in in_float
        ]
        return Plan(tuple(layers), model)

    def apply(self, model: "Model", config: StaticInt8Options, bench: Workbench) -> "Model":
        from detpress.adapters.inc import Scheme, quantize_static

        in_float = layers_in_float(model.architecture, config)
        images = bench.calibration(config.calibration_images)
        scheme = Scheme(config.algorithm, config.symmetric, config.per_channel)
        network = quantize_static(model.network, model.architecture, images, scheme, in_float, bench.log)
        bench.log.info("%d convolutions in int8, %d in float", len(network.quantization.inputs), len(in_float))
        return model.with_network(network, Form.INT8)


def layers_in_float(architecture: "Architecture", config: StaticInt8Options) -> set[int]:
    """Layer numbers of the convolutions that stay in float. Raises InputError for a pattern that matches none."""
    from detpress.detector.architecture import Convolution
    from detpress.layer_patterns import matching_layers

    names = {f"layers.{i}": i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
    chosen = {names[name] for name in matching_layers(config.float_layers, names, "float_layers")}
    return chosen | set(architecture.heads) if config.float_heads else chosen
