"""Weights, and inputs, of one bit.

chain:
  - binary.connect: {training: {epochs: 6, learning_rate: 0.0005}}
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.config import TrainingConfig
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from detpress.detector.model import Model
    from detpress.detector.network import Network
    from detpress.encodings.binary import Binary
    from detpress.training.binary_weights import How


class BinaryOptions(Options):
    """What stays in float, and the training."""

    exclude: list[str] = Field(
        [], description="patterns of layers in float, beside the first convolution and those that give the raw maps"
    )
    statistics_images: int = Field(
        256, ge=2, description="training images that BatchNorm's statistics are taken from when the signs are final"
    )
    training: TrainingConfig


class ConnectOptions(BinaryOptions):
    """And whether signs are drawn."""

    stochastic: bool = Field(
        False, description="in training, a weight is 1 by a chance that grows with its real number"
    )


class XnorOptions(BinaryOptions):
    """And whether the size of an input counts."""

    input_scale: bool = Field(
        False, description="multiplies what the signs give by the mean size of the inputs there (the paper's K)"
    )


class OneBit(Plugin):
    """What all have in common."""

    Config = BinaryOptions
    accepts = frozenset({Form.DENSE})
    returns: ClassVar[Form | None] = Form.PACKED
    needs_norm: ClassVar[bool] = True  # signs have no size of their own, which BatchNorm makes up for
    fewest_channels: ClassVar[int] = 1  # that a convolution takes

    def how(self, config: Any) -> "How":
        raise NotImplementedError

    def encoding(self, config: Any) -> "Binary":
        from detpress.encodings.binary import Binary, BinaryInputs

        inputs = self.how(config).inputs
        return Binary() if inputs is None else BinaryInputs(inputs == "scaled_signs")

    def plan(self, model: "Model", config: Any) -> Plan:
        layers = self.layers(model, config)
        names = tuple(model.architecture.names[i] for i in layers)
        return Plan(names, self.encoded(model, model.own_network, layers, config))

    def check(self, model: "Model", config: Any, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_asked(config, "statistics_images")

    def apply(self, model: "Model", config: Any, bench: Workbench) -> "Model":
        from detpress.detector.network import convolution_of
        from detpress.plugins.coded_bytes import keep_bytes
        from detpress.training.binary_weights import BinaryWeights
        from detpress.training.shared_weights import no_longer_shared
        from detpress.training.statistics import with_statistics_of

        layers = self.layers(model, config)
        fitted = bench.fit(model, config.training, (BinaryWeights(layers, self.how(config)),)).network
        images = bench.calibration(config.statistics_images, config.is_default("statistics_images"))
        settled: Any = with_statistics_of(fitted, images, config.training.batch_size, bench.device)
        found = self.encoded(model, no_longer_shared(settled), layers, config)
        kept = {i: convolution_of(found.network, i).state_dict() for i in layers}
        keep_bytes(
            bench,
            {
                i: {"code": of["signs"].nbytes, "scale": of["scale"].nbytes + of["bias"].nbytes}
                for i, of in kept.items()
            },
        )
        return found

    def encoded(self, model: "Model", network: "Network", layers: list[int], config: Any) -> "Model":
        """The model of `network`, whose filters in these layers become signs and their mean size."""
        from detpress.detector.folding import batch_norm_of
        from detpress.detector.network import weight_name, with_encoded
        from detpress.encodings.binary import packed_signs
        from detpress.training.binary_weights import sizes_of_filters

        encoded = {}
        for i in layers:
            weight = network.get_parameter(weight_name(i)).detach()
            gain, bias = batch_norm_of(network, i)
            scale = sizes_of_filters(weight).flatten() * gain
            encoded[i] = self.encoding(config), {"signs": packed_signs(weight), "scale": scale, "bias": bias}
        return model.with_network(with_encoded(network, encoded), self.returns)

    def layers(self, model: "Model", config: BinaryOptions) -> list[int]:
        """Numbers of the convolutions that become binary.

        Raises InputError for a pattern that matches no convolution, and where none is left.
        """
        from detpress.detector.architecture import Convolution
        from detpress.detector.layer_patterns import matching_convolutions
        from detpress.detector.network import weight_name

        architecture = model.architecture
        every = {i: layer for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
        in_float = matching_convolutions(config.exclude, architecture, "exclude")
        in_float |= {min(every), *architecture.heads}
        found = [
            i
            for i, layer in every.items()
            if i not in in_float
            and layer.groups == 1
            and (layer.batch_normalize or not self.needs_norm)
            and model.network.get_parameter(weight_name(i)).shape[1] >= self.fewest_channels
        ]
        if not found:
            raise InputError("exclude: no convolution is left that becomes binary")
        return found


class Connect(OneBit):
    """Trains with weights that are -1 or 1, a real number behind each, and keeps one bit of each.

    Courbariaux, Bengio, David, "BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
    arXiv:1511.00363, 2015, by the authors' code: the sign of the real weight, or, `stochastic`, 1 by the chance
    clip((w + 1) / 2, 0, 1); the gradient at the sign goes to the real weight as it is, which stays between -1 and 1,
    and whose steps are multiplied by sqrt((fan in + fan out) / 1.5).

    Changed: it begins with trained weights, each layer's multiplied so that their mean size is a half, as that of the
    paper's evenly drawn ones; the first convolution, the raw maps', those with groups or without BatchNorm stay in
    float; the optimizer is this trainer's AdamW, its moving average of the real weights is what signs are taken of,
    and BatchNorm's statistics are taken anew for them. Signs are kept where they were drawn in training, too: the
    authors evaluate such a network with its real weights, which would save nothing.

    Only the file gets smaller: a bit a weight, and BatchNorm in two floats a filter (`plugin.code_bytes`,
    `scale_bytes`). Weights are decoded when it is loaded, and as much is computed as before.
    """

    Config = ConnectOptions

    def how(self, config: ConnectOptions) -> "How":
        from detpress.training.binary_weights import How

        return How("connect", config.stochastic)


class Net(OneBit):
    """As `binary.connect`, and the convolutions take signs, too.

    Courbariaux, Hubara, Soudry, El-Yaniv, Bengio, "Binarized Neural Networks: Training Deep Neural Networks with
    Weights and Activations Constrained to +1 or -1", arXiv:1602.02830, 2016, by the authors' code: an input is the sign
    of what BatchNorm gave, with the gradient of a hard hyperbolic tangent, none beyond 1.

    Changed: as there, and: signs are taken where a convolution takes its input, which is behind BatchNorm and leaky
    ReLU, that leaves signs as they are, but also behind sums and concatenations, which stay in float; behind ReLU no
    input is negative, and all that this keeps is whether one is 0; a 0 counts as -1; what is padded is 0, as in the
    authors' code. `nni.bnn` is NNI's, in which gradients of inputs are not cut off.

    A sum of products of signs is a count of equal bits. OpenVINO counts them, where a layer's input channels fill whole
    bytes; all other runtimes compute in float, where times and memory are simulated. The file is really smaller.
    """

    returns = Form.SIMULATED

    def how(self, config: BinaryOptions) -> "How":
        from detpress.training.binary_weights import How

        return How("connect", inputs="signs")


class Weights(OneBit):
    """Trains with weights that are -1 or 1 times the mean size of their filter's, and keeps one bit of each.

    Rastegari, Ordonez, Redmon, Farhadi, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    arXiv:1603.05279, 2016: its Binary-Weight-Networks, by the authors' code. Before each step the real weights lose
    their mean over input channels and are held between -1 and 1; the gradient at alpha sign(w) is multiplied by
    (alpha 1[|w| < 1] + 1/n) (1 - 1/c), for the n weights and c channels of a filter.

    Changed: it begins with trained weights; the first convolution, the raw maps', those with groups and those that take
    one channel stay in float (the authors': the first and the last); the optimizer is this trainer's AdamW, which a
    constant factor of the gradient does not change (the code's n under SGD, 1e9 under Adam); signs are taken of the
    moving average of the real weights, and BatchNorm's statistics anew for them.

    Only the file gets smaller, as with `binary.connect`.
    """

    version = 2
    needs_norm = False
    fewest_channels = 2  # of a single one nothing is left without their mean

    def how(self, config: Any) -> "How":
        from detpress.training.binary_weights import How

        return How("xnor")


class Xnor(Weights):
    """As `binary.weights`, and the convolutions take signs, too.

    Rastegari, Ordonez, Redmon, Farhadi, "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    arXiv:1603.05279, 2016, by the authors' code. Its blocks are BatchNorm, sign, convolution: that is what a detector's
    are from one convolution's BatchNorm to the next convolution, since leaky ReLU leaves signs as they are. The paper
    multiplies by how large the input is at each place; the network that the authors released does not, which is why
    `input_scale` is an option.

    Changed: as there, and as in `binary.net`: sums and concatenations stay in float, a 0 counts as -1, what is padded
    is 0, the gradient of an input is cut off beyond 1. What is really counted, and what is simulated, is as there.
    """

    Config = XnorOptions
    returns = Form.SIMULATED

    def how(self, config: XnorOptions) -> "How":
        from detpress.training.binary_weights import How

        return How("xnor", inputs="scaled_signs" if config.input_scale else "signs")
