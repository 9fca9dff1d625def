"""Intel Neural Compressor's quantization."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model


class LayerOptions(Options):
    """Which convolutions are left as they are."""

    float_layers: list[str] = Field([], description="patterns of layers kept in float, such as `layers.0`")
    float_heads: bool = Field(False, description="keep the convolutions that give the raw maps in float")


class StaticInt8Options(LayerOptions):
    """What is calibrated, and how."""

    calibration_images: int = Field(64, ge=1, description="training images that the activations' ranges are read from")
    algorithm: Literal["minmax", "kl"] = Field(
        "minmax", description="range of an activation: what was seen, or what loses least of its histogram"
    )
    symmetric: bool | Literal["padded"] = Field(
        "padded",
        description="activations that are ever negative have their zero in the middle of 256 values: all (true), none "
        "(false), or those that a convolution pads, where another zero costs time (docs/benchmarks.md)",
    )
    per_channel: bool = Field(True, description="one scale for each filter's weights; false: one for the whole layer's")
    corrected: bool = Field(
        True,
        description="equalize channels before depthwise convolutions, and let biases make up for what rounding moves "
        "means by",
    )
    full_range: bool = Field(
        False,
        description="weights use all of 8 bits, which x86 processors without VNNI or AMX compute wrong",
    )


class StaticInt8(Plugin):
    """Weights and activations in 8-bit integers, their ranges calibrated on training images.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877, 2018, by Intel Neural Compressor's post-training static quantization (PyTorch 2 export): weights
    signed, symmetric, one scale a filter or a layer, codes from -64 to 64 but for depthwise convolutions, since x86
    processors without VNNI or AMX saturate larger ones; activations with one scale a tensor, and with a zero of their
    own unless `symmetric` has it in the middle, which INC has for all or none; BatchNorm folded. Ranges of activations:
    `minmax` is the mean over batches of the smallest and largest value; `kl` is the range in which the
    histogram of the values loses least by rounding, as INC names it (what runs is PyTorch's HistogramObserver, whose
    measure is the squared error, not the divergence of that name). The network takes any number of images. Unlike INC,
    `corrected` equalizes what depthwise convolutions take and corrects biases on the calibration images, after Nagel et
    al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721, 2019. Jacob et al.
    also keep biases in integers and train with quantization in the loop; here biases are float and nothing is trained.
    """

    Config = StaticInt8Options
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "neural-compressor"
    version = 5

    def plan(self, model: "Model", config: StaticInt8Options) -> Plan:
        return plan_of_int8(model, layers_to_quantize(model.architecture, config))

    def check(self, model: "Model", config: StaticInt8Options, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: StaticInt8Options, bench: Workbench) -> "Model":
        from detpress.adapters.inc import Scheme, quantize_static

        in_float = layers_in_float(model.architecture, config)
        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        scheme = Scheme(**config.model_dump(include=set(Scheme.__annotations__)))
        network = quantize_static(model.network, model.architecture, images, scheme, in_float, bench.log)
        quantized = len(network.encodings) - len(in_float)
        bench.log.info("%d convolutions in int8, %d in float", quantized, len(in_float))
        return model.with_network(network, Form.INT8)


class DynamicInt8Options(LayerOptions):
    """What is rounded together."""

    per_channel: bool = Field(True, description="one scale for each filter's weights; false: one for the whole layer's")


class DynamicInt8(Plugin):
    """Weights in 8-bit integers, activations rounded to 8 bits by the range that they have in each run.

    Intel Neural Compressor's dynamic quantization (PyTorch 2 export): no calibration images, and no range that an
    unusual image could leave; in exchange the range of every convolution's input is searched in every run, over the
    whole batch, so that a result depends a little on what else is in the batch. What really runs: ONNX Runtime computes
    the convolutions in integers (DynamicQuantizeLinear, ConvInteger), slower than in float (docs/benchmarks.md); the
    others compute in float on rounded numbers, and mAP is scored so: the form is `simulated`, these figures are marked,
    and `precision` beside each latency says in what it was computed. The storage is real.
    INC's default of one scale for a whole layer's weights is `per_channel: false`.
    """

    Config = DynamicInt8Options
    accepts = frozenset({Form.DENSE})
    returns = Form.SIMULATED
    engine = "neural-compressor"

    def plan(self, model: "Model", config: DynamicInt8Options) -> Plan:
        from detpress.detector.network import Network, folded_but
        from detpress.encodings.dynamic_int8 import DynamicInt8
        from detpress.encodings.simulated import with_zeros_of

        layers = layers_to_quantize(model.architecture, config)
        encodings = folded_but(model.architecture, dict.fromkeys(layers, DynamicInt8()))
        network = Network(model.architecture, encodings)
        planned = model.with_network(with_zeros_of(network, model.network), Form.SIMULATED)
        return Plan(tuple(model.architecture.names[i] for i in layers), planned)

    def apply(self, model: "Model", config: DynamicInt8Options, bench: Workbench) -> "Model":
        from detpress.adapters.inc_dynamic import quantize_dynamic

        in_float = layers_in_float(model.architecture, config)
        images = bench.calibration(1)
        network = quantize_dynamic(model.network, model.architecture, images, config.per_channel, in_float, bench.log)
        quantized = len(network.encodings) - len(in_float)
        bench.log.info("%d convolutions rounded dynamically, %d in float", quantized, len(in_float))
        return model.with_network(network, Form.SIMULATED)


class HalfOptions(LayerOptions):
    """Which 16 bits."""

    dtype: Literal["bf16", "fp16"] = Field(
        "bf16", description="bf16: float32's range, 8 bits of precision; fp16: 11 bits of precision, up to 65504"
    )


class MixedPrecision(Plugin):
    """Convolutions in 16 bits, everything between them in float32; the weights are stored in 16 bits, too.

    Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, 2018, of which this is the part for inference, by
    Intel Neural Compressor's mixed precision. The bundle holds what INC's wrapped convolutions compute, bit for bit
    in PyTorch. What really runs: PyTorch computes each convolution in 16 bits; OpenVINO computes the whole network in
    them where the CPU can, and says in which precision it did; ONNX Runtime's CPU convolutions know float32 only, so
    there the rounded weights are computed with in float32 and the figures are marked as simulated.
    """

    Config = HalfOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.HALF
    engine = "neural-compressor"

    def plan(self, model: "Model", config: HalfOptions) -> Plan:
        from detpress.encodings.half import half_network

        layers = layers_to_quantize(model.architecture, config)
        planned = model.with_network(half_network(model.own_network, config.dtype, layers), Form.HALF)
        return Plan(tuple(model.architecture.names[i] for i in layers), planned)

    def apply(self, model: "Model", config: HalfOptions, bench: Workbench) -> "Model":
        from detpress.adapters.inc_half import to_half_precision

        in_float = layers_in_float(model.architecture, config)
        network = to_half_precision(model.own_network, config.dtype, in_float, bench.calibration(1), bench.log)
        bench.log.info("%d convolutions in %s", len(network.encodings) - len(in_float), config.dtype)
        return model.with_network(network, Form.HALF)


class WeightOnlyOptions(LayerOptions):
    """How many bits, and how the codes are chosen."""

    algorithm: Literal["rtn", "gptq", "hqq"] = Field(
        "rtn",
        description="round to nearest; GPTQ, which makes up for each rounding error; or HQQ, which fits the zeros",
    )
    bits: Literal[4, 8] = Field(4, description="of a weight")
    group_size: int = Field(
        32, ge=-1, le=65536, description="weights of a filter that share a scale; -1 for all of a filter"
    )
    symmetric: bool = Field(
        False, description="codes lie evenly around zero, and no zero points are stored (rtn and gptq)"
    )
    search_range: bool = Field(
        False,
        description="take smaller ranges where the error is less: all of a convolution's by one factor (rtn), or "
        "each group's by its own (gptq)",
    )
    calibration_images: int = Field(32, ge=1, description="training images that gptq sees the layers' inputs of")

    @model_validator(mode="after")
    def _fits(self) -> "WeightOnlyOptions":
        if self.group_size == 0:
            raise ValueError("group_size: expected -1 or a positive number, got 0")
        if self.algorithm == "hqq" and (self.symmetric or self.search_range):
            raise ValueError("symmetric and search_range: not for hqq, which fits each group's zero itself")
        if self.algorithm != "gptq" and not self.is_default("calibration_images"):
            raise ValueError(f"calibration_images: not for {self.algorithm}, which sees no images")
        return self


class WeightOnly(Plugin):
    """Weights in 4 or 8 bits, packed in the bundle; activations and arithmetic stay in float32.

    Intel Neural Compressor's weight-only quantization looks for Linear layers and leaves convolutions alone without a
    word. Here it is given each convolution as the Linear layer that it is: its weights as a matrix (filters, inputs *
    k * k), for GPTQ with the patches of its inputs (im2col) to calibrate on, layer after layer, each seeing what the
    packed layers before it give. A group of weights that lie side by side in a filter shares a scale (16 bits).

    rtn: round to nearest. gptq: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", arXiv:2210.17323, 2023, with at most 1,024 patches of an image, spread evenly; dampening of 1 % as in
    the paper, without its `act_order`. hqq: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning
    Models", 2023, which sees no data.

    Only the bundle gets smaller: the weights are unpacked when it is loaded, so the network is as fast as before.
    """

    Config = WeightOnlyOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.PACKED
    engine = "neural-compressor"
    version = 3

    def plan(self, model: "Model", config: WeightOnlyOptions) -> Plan:
        from detpress.detector.network import Network, folded_but
        from detpress.encodings.packed import Packed

        layers = layers_to_quantize(model.architecture, config)
        packing = Packed(config.bits, config.group_size, config.symmetric)
        packed = Network(model.architecture, folded_but(model.architecture, dict.fromkeys(layers, packing)))
        names = tuple(model.architecture.names[i] for i in layers)
        return Plan(names, model.with_network(packed.eval(), Form.PACKED))

    def check(self, model: "Model", config: WeightOnlyOptions, images: ImageCounts) -> None:
        if config.algorithm == "gptq":
            images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: WeightOnlyOptions, bench: Workbench) -> "Model":
        from detpress.adapters.inc_weight_only import pack_weights
        from detpress.encodings.packed import Packed

        layers = layers_to_quantize(model.architecture, config)
        packing = Packed(config.bits, config.group_size, config.symmetric)
        images = None
        if config.algorithm == "gptq":
            images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        network = pack_weights(
            model.own_network,
            packing,
            layers,
            config.algorithm,
            config.search_range,
            images,
            bench.log,
            bench.progress,
        )
        bench.log.info("%d convolutions in %d bits", len(layers), config.bits)
        return model.with_network(network, Form.PACKED)


def plan_of_int8(model: "Model", layers: "Sequence[int]", note: str = "") -> Plan:
    """Of the layers with these numbers in int8, BatchNorm folded into all; codes and scales are stand-ins."""
    from detpress.detector.input_scale import InputScale
    from detpress.detector.network import Network, folded_but
    from detpress.encodings.int8 import Int8
    from detpress.encodings.simulated import with_zeros_of

    encodings = folded_but(model.architecture, dict.fromkeys(layers, Int8(InputScale(1.0, 0))))
    network = with_zeros_of(Network(model.architecture, encodings), model.network)
    names = tuple(model.architecture.names[i] for i in layers)
    return Plan(names, model.with_network(network, Form.INT8), note)


def layers_to_quantize(architecture: "Architecture", config: LayerOptions) -> list[int]:
    """Layer numbers of the convolutions that are not left in float.

    Raises InputError for a pattern that matches none, and where none remains.
    """
    from detpress.detector.architecture import Convolution
    from detpress.errors import InputError

    in_float = layers_in_float(architecture, config)
    layers = [i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution) and i not in in_float]
    if not layers:
        raise InputError("float_layers: every convolution stays in float; nothing is left to quantize")
    return layers


def layers_in_float(architecture: "Architecture", config: LayerOptions) -> set[int]:
    """Layer numbers of the convolutions that stay in float. Raises InputError for a pattern that matches none."""
    from detpress.detector.layer_patterns import matching_convolutions

    chosen = matching_convolutions(config.float_layers, architecture, "float_layers")
    return chosen | set(architecture.heads) if config.float_heads else chosen
