"""NNI's quantizers: networks trained, or calibrated, to live with few bits; what they gain is simulated.

All round the weights and, unless told otherwise, the inputs of the convolutions; the first convolution and the heads
stay in float, as is usual. The scales and zero points stay in the model, so that a later step can execute it in
integers.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import Options
from detpress.training.config import TrainingConfig
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture
    from detpress.detector.model import Model

Scheme = Literal["symmetric", "affine"]


class Bits(Options):
    """What an override changes; what it does not name stays as for the other layers."""

    weight_bits: int = Field(8, ge=1, le=8, description="bits of a weight")
    activation_bits: int | None = Field(8, ge=1, le=8, description="bits of a number in the input; null: float")


class Layers(Options):
    """Which convolutions are quantized."""

    float_layers: list[str] = Field([], description="patterns of layers kept in float, such as `layers.1?`")
    first_and_heads: bool = Field(
        False, description="quantize the first convolution too, and those that give the raw maps"
    )


class Quantization(Layers):
    """How many bits, and where."""

    weight_bits: int = Field(8, ge=1, le=8, description="bits of a weight")
    activation_bits: int | None = Field(
        8, ge=1, le=8, description="bits of a number in a convolution's input; null keeps inputs in float"
    )
    overrides: dict[str, Bits] = Field(
        {}, description="weight_bits and activation_bits of the layers that a pattern matches; the last wins"
    )
    calibration_images: int = Field(
        32, ge=1, description="training images that first ranges and scales are read from; PTQ's and DoReFa's last ones"
    )


class PerChannel(Quantization):
    """Whether filters have scales of their own."""

    per_channel: bool = Field(True, description="a scale a filter for weights, instead of one for all of a convolution")


class UniformSteps(PerChannel):
    """Ranges symmetric about zero, or not."""

    weight_scheme: Scheme = Field("symmetric", description="weights: range symmetric about 0, or with a zero point")
    activation_scheme: Scheme = Field("affine", description="inputs: range symmetric about 0, or with a zero point")


class QatOptions(UniformSteps):
    """Uniform steps in the ranges that were seen, and the training."""

    training: TrainingConfig


class LsqOptions(PerChannel):
    """Learned scales, and the training."""

    training: TrainingConfig


class LsqPlusOptions(PerChannel):
    """Learned scales and zero points, and the training."""

    weight_scheme: Scheme = Field("symmetric", description="weights: zero point at 0 (the paper's), or learned")
    training: TrainingConfig


class DoReFaOptions(Quantization):
    """DoReFa's bits, and the training."""

    training: TrainingConfig


class BnnOptions(Layers):
    """What is binarized, and the training."""

    binary_inputs: bool = Field(True, description="binarize the convolutions' inputs too, not their weights alone")
    training: TrainingConfig


class Quantizer(Plugin):
    """Rounds weights and inputs of convolutions."""

    accepts = frozenset({Form.DENSE})
    returns = Form.SIMULATED
    engine = "nni"
    method: ClassVar[Any]
    weight_scheme: ClassVar[Scheme] = "symmetric"  # these two where they are no option
    activation_scheme: ClassVar[Scheme] = "affine"
    needs_norm: ClassVar[bool] = False  # weights get a size of their own, which BatchNorm makes up for

    def plan(self, model: "Model", config: Any) -> Plan:
        """The model has the bits and the kinds of grid; its codes and scales are stand-ins."""
        from detpress.detector.network import Network, convolution_name, folded_but, weight_name
        from detpress.encodings.simulated import Grid, Simulated, with_zeros_of

        bits = self.bits(model.architecture, config)
        weight_scheme, _ = self.schemes(config)
        layers = {
            i: Simulated(weights, None if inputs is None else Grid(0, 2**inputs - 1, 1.0, 0.0))
            for i, (weights, inputs) in bits.items()
        }
        encodings = folded_but(model.architecture, layers)
        network = with_zeros_of(Network(model.architecture, encodings), model.network)
        if weight_scheme == "affine":
            for i in layers:  # codes are counted from a zero that is not 0
                network.get_buffer(f"{convolution_name(i)}.weight_zero_point").fill_(1.0)
                network.get_buffer(weight_name(i)).add_(1)
        planned = model.with_network(network, Form.SIMULATED)
        return Plan(tuple(model.architecture.names[i] for i in layers), planned)

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        super().check(model, config, images)
        if isinstance(config, Quantization):
            images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        from detpress.adapters.nni_quantize import LayerTargets, quantize
        from detpress.encodings.simulated import Simulated

        per_channel = getattr(config, "per_channel", False)
        layers = {
            i: LayerTargets(weights, inputs, *self.schemes(config), per_channel)
            for i, (weights, inputs) in self.bits(model.architecture, config).items()
        }
        images = (
            bench.calibration(config.calibration_images, config.is_default("calibration_images"))
            if isinstance(config, Quantization)
            else bench.calibration(1)
        )
        network = quantize(self.method, model.own_network, layers, images, getattr(config, "training", None), bench)
        for i, layer in network.encodings.items():
            if isinstance(layer, Simulated):
                bits, grid = layer.weight_bits, layer.input or "in float"
                bench.log.info("layers.%d: weights of %d bits, input %s", i, bits, grid)
        return model.with_network(network, Form.SIMULATED)

    def schemes(self, config: Any) -> tuple[Scheme, Scheme]:
        """Of weights and of inputs: an option where the method leaves a choice."""
        return (
            getattr(config, "weight_scheme", self.weight_scheme),
            getattr(config, "activation_scheme", self.activation_scheme),
        )

    def bits(self, architecture: "Architecture", config: Any) -> dict[int, tuple[int, int | None]]:
        """Bits of the weights and of the input of each layer that is quantized, by layer number.

        Raises InputError for a pattern that matches no layer, and for bits that leave no number but 0.
        """
        from detpress.detector.layer_patterns import matching_layers
        from detpress.errors import InputError

        names = {architecture.names[i]: i for i in self.layers(architecture, config)}
        bits = dict.fromkeys(names.values(), (config.weight_bits, config.activation_bits))
        for pattern, override in config.overrides.items():
            given = override.model_dump(exclude_unset=True)
            for name in matching_layers([pattern], names, "overrides"):
                weights, inputs = bits[names[name]]
                bits[names[name]] = given.get("weight_bits", weights), given.get("activation_bits", inputs)
        for pair in bits.values():
            for what, count, scheme in zip(("weight", "activation"), pair, self.schemes(config), strict=True):
                if count == 1 and scheme == "symmetric":
                    raise InputError(f"{what}_bits: 1 bit, symmetric about 0, is 0 alone; expected 2 to 8, or affine")
        return bits

    def layers(self, architecture: "Architecture", config: Layers) -> list[int]:
        """Layer numbers of the convolutions that do not stay in float.

        Raises InputError for a pattern that matches no convolution, and where none is left.
        """
        from detpress.detector.architecture import Convolution
        from detpress.detector.layer_patterns import matching_convolutions
        from detpress.errors import InputError

        every = {i: layer for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
        in_float = matching_convolutions(config.float_layers, architecture, "float_layers")
        if not config.first_and_heads:
            in_float |= {min(every), *architecture.heads}
        if self.needs_norm:
            in_float |= {i for i, layer in every.items() if not layer.batch_normalize} - set(architecture.heads)
        layers = [i for i in every if i not in in_float]
        if not layers:
            raise InputError("float_layers: leaves no convolution to quantize")
        return layers


class Ptq(Quantizer):
    """Rounds to uniform steps in the ranges of the calibration images; nothing is trained.

    NNI's PtqQuantizer, which names no paper; the scheme is that of nni.qat. A range goes from the smallest to the
    largest number seen, zero in it. BatchNorm is folded into the weights before they are rounded. NNI's correction of
    biases is not offered: it sums over all but the last dimension, which in a convolution's output is the width.
    """

    Config = UniformSteps
    method = "ptq"


class Qat(Quantizer):
    """Trains with weights and inputs rounded to uniform steps, so that the network learns to do with these.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    arXiv:1712.05877, 2018, by NNI's QATQuantizer: rounding in the forward pass, the gradient straight through it where
    nothing was clipped; BatchNorm folded into the weights before rounding, by its moving averages (section 3.2); ranges
    are moving averages of the smallest and the largest number (decay 0.99). The paper takes a weight's range from the
    weights as they are, a scale a tensor, and begins to round inputs late; NNI averages both ranges, and rounds from
    the start. BatchNorm does not normalize by the batch here, so a learning rate below that of ordinary training is
    needed (0.001 and less).
    """

    Config = QatOptions
    method = "qat"


class Lsq(Quantizer):
    """Learns the size of the steps together with the weights.

    Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned Step Size Quantization", arXiv:1902.08153, 2020, by NNI's
    LsqQuantizer: the gradient of a scale is scaled by 1 / sqrt(numbers x largest code). Symmetric, with codes from
    -(2^(b-1) - 1). A scale begins at 2 mean |v| / sqrt(largest code), the paper's value (NNI's own is 0.01), and has a
    learning rate in proportion to it, since AdamW, unlike the paper's SGD, does not see how large a gradient is. The
    paper keeps inputs unsigned, behind ReLU; here they are signed, behind leaky ReLU. It has a scale a tensor;
    `per_channel: false` is that.
    """

    Config = LsqOptions
    method = "lsq"
    activation_scheme = "symmetric"


class LsqPlus(Quantizer):
    """Learns the size of the steps and, for inputs, where zero is among them.

    Bhalgat, Lee, Nagel, Blankevoort, Kwak, "LSQ+: Improving low-bit quantization through learnable offsets and better
    initialization", arXiv:2004.09576, 2020, by NNI's LsqPlusQuantizer. Made for activations such as leaky ReLU, which
    are negative, but seldom far. As in the paper, weights are symmetric, their scales beginning with the codes three
    standard deviations from the mean, and an input's numbers begin where the squared error is smallest (here found by
    trying 50 parts of the range of one batch). NNI's own beginning, 0.01 for every scale and half the codes for every
    zero point, cuts off all positive weights. A zero point may end between two integers; scales have learning rates
    as in nni.lsq.
    """

    Config = LsqPlusOptions
    method = "lsq_plus"


class DoReFa(Quantizer):
    """Squeezes the weights of a convolution into -1 to 1 by their hyperbolic tangent, and rounds them there.

    Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth Gradients",
    arXiv:1606.06160, 2016, by NNI's DoReFaQuantizer. As in NNI, 1-bit weights are -1 and 1, without the paper's factor
    of their mean size, which BatchNorm makes up for; inputs are rounded between the smallest and the largest number of
    the batch, where the paper cuts them off at 0 and 1; the ranges kept are those of the calibration images. Gradients
    stay in float: few bits there make training cheaper, and only on machines built for it. NNI would round them to
    as many bits as the weights. Convolutions without BatchNorm stay in float.
    """

    Config = DoReFaOptions
    method = "dorefa"
    version = 2
    needs_norm = True
    weight_scheme = "affine"


class Bnn(Quantizer):
    """Trains with weights, and the convolutions' inputs, that are -1 or 1.

    Courbariaux, Hubara, Soudry, El-Yaniv, Bengio, "Binarized Neural Networks: Training Deep Neural Networks with
    Weights and Activations Constrained to +1 or -1", arXiv:1602.02830, 2016, by NNI's BNNQuantizer: signs in the
    forward pass, the gradient straight through, weights held between -1 and 1. The paper cuts off the gradient of an
    input beyond 1; NNI does so for outputs only, and it is inputs that are rounded here, so that sums of residual
    branches stay in float, and so do convolutions without BatchNorm.
    """

    Config = BnnOptions
    method = "bnn"
    version = 2
    needs_norm = True

    def bits(self, architecture: "Architecture", config: BnnOptions) -> dict[int, tuple[int, int | None]]:
        return dict.fromkeys(self.layers(architecture, config), (1, 1 if config.binary_inputs else None))
