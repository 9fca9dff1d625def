"""Vector quantization: pieces of a layer's weights, each replaced by a word of a codebook, or by a sum of words.

chain:
  - vector_quantization.product: {epochs: 4}
"""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.config import TrainingOptions
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    import torch

    from detpress.detector.model import Model
    from detpress.detector.network import Network
    from detpress.encodings.vector_fitting import Cut
    from detpress.encodings.vectors import Words


class ProductOptions(Options):
    """How layers are cut into sub-vectors, how many words there are, what is near, and how long words learn."""

    size: int = Field(
        9,
        ge=0,
        description="weights of a sub-vector in convolutions of more than 1 x 1; 9 is what a filter of 3 x 3 has for a "
        "channel; 0: all of a filter's",
    )
    pointwise_size: int = Field(4, ge=0, description="likewise in convolutions of 1 x 1: of so many channels")
    words: int = Field(256, ge=1, le=2**16, description="in a codebook, of which each convolution has its own")
    vectors_a_word: int = Field(
        4,
        ge=1,
        description="sub-vectors a word, at least: a convolution with fewer has fewer words, the next lower power of 2",
    )
    codebook: Literal["float32", "float16", "int8"] = Field(
        "float16", description="in what the words are kept; int8 has a step for each codebook, and is rounded last"
    )
    calibration_images: int = Field(
        32,
        ge=0,
        description="training images, whose inputs of each convolution say which differences matter; 0: all alike",
    )
    exclude: list[str] = Field([], description="patterns of layers that stay in float, such as `layers.1?`")
    epochs: int = Field(ge=0, le=10_000, description="in which the words learn; 0: they are k-means' own")
    training: TrainingOptions = TrainingOptions()

    @model_validator(mode="after")
    def _training_is_read(self) -> Self:
        if not self.epochs and not self.is_default("training"):
            raise ValueError("training: not read: expected beside `epochs` above 0")
        return self


class ResidualOptions(ProductOptions):
    """The same, and how often what is left is quantized again."""

    stages: int = Field(2, ge=1, le=8, description="codebooks of a convolution, each for what those before it leave")


class VectorQuantization(Plugin):
    """What both have in common: one has one stage."""

    accepts = frozenset({Form.DENSE})
    returns = Form.PACKED

    def trains(self, config: ProductOptions) -> bool:
        return config.epochs > 0

    def plan(self, model: "Model", config: ProductOptions) -> Plan:
        from detpress.detector.encoding import weight_shape
        from detpress.detector.network import convolution_of
        from detpress.encodings.vector_fitting import vector_network

        planned = {
            i: cut.planned(weight_shape(convolution_of(model.network, i))) for i, cut in cuts(model, config).items()
        }
        names = tuple(model.architecture.names[i] for i in planned)
        return Plan(names, model.with_network(vector_network(model.own_network, planned, config.codebook), Form.PACKED))

    def check(self, model: "Model", config: ProductOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")
        if config.epochs:
            super().check(model, config, images)

    def apply(self, model: "Model", config: ProductOptions, bench: Workbench) -> "Model":
        from detpress.encodings.vector_fitting import vector_network, words_of_network
        from detpress.plugins.coded_bytes import keep_bytes

        cut = cuts(model, config)
        asked = config.calibration_images
        images = bench.calibration(asked, config.is_default("calibration_images")) if asked else None
        network = model.own_network
        words = words_of_network(
            network, cut, images, bench.seed, lambda done: bench.progress("layers quantized", done, len(cut))
        )
        if config.epochs:
            network, words = trained(model, words, config, bench)
        found = model.with_network(vector_network(network, words, config.codebook), Form.PACKED)
        table = {i: parts_of(found, i, of) for i, of in words.items()}
        keep_bytes(bench, table)
        weights = sum(of.shape.numel() for of in words.values())
        bench.figure("bits_per_weight", 8 * sum(row["code"] for row in table.values()) / weights)
        return found


class Product(VectorQuantization):
    """Cuts each convolution's weights into sub-vectors, which share the words of a codebook, found by k-means.

    Gong, Liu, Yang, Bourdev, "Compressing Deep Convolutional Networks using Vector Quantization", arXiv:1412.6115,
    2014, of which the abstract was at hand, in the form of Stock, Joulin, Gribonval, Graham, Jegou, "And the Bit Goes
    Down: Revisiting the Quantization of Neural Networks", arXiv:1907.05686, 2019 (ICLR 2020), by the authors' code: one
    codebook a convolution, 256 words of a whole 3 x 3 filter of a channel or of four channels at one place, at least
    four sub-vectors a word, words in 16 bits, the first convolution in float. What is near is what the layer makes of
    its real inputs, behind quantized layers: the square of (v - w) x, for the x that a sub-vector is multiplied by
    (`calibration_images: 0` is the plain k-means of 2014). With `size: 1` it is the k-means of single weights. Then the
    words learn.

    Changed: all inputs of the calibration images count, by their second moments, where the authors draw some anew in
    each round; k-means is scikit-learn's, begun by k-means++ and for 100 rounds at most; filters whose weights a
    sub-vector does not divide are filled up with zeros; words learn together, at the end, on the detector's own loss by
    this trainer's AdamW, BatchNorm beside them, where the authors have them learn layer by layer, then together, from
    the float network by SGD.

    Only the file gets smaller: a codebook of k words of d numbers of b bits takes b k d bits, n sub-vectors n log2 k.
    Weights are decoded when it is loaded, and as much is computed as before, in every runtime and export.
    `plugin.code_bytes`, `codebook_bytes` and `scale_bytes` (BatchNorm's gain and bias, in float) are all that these
    layers take, `entropy_bytes` is what no code that gives each sub-vector's code bits of its own brings the codes
    below; `files/bytes.csv` has them by layer.
    """

    Config = ProductOptions


class Residual(VectorQuantization):
    """As `vector_quantization.product`, with several codebooks a convolution: each for what those before it leave.

    Gong, Liu, Yang, Bourdev, "Compressing Deep Convolutional Networks using Vector Quantization", arXiv:1412.6115,
    2014, of which the abstract was at hand: residual quantization (Chen, Guan, Wang, "Approximate Nearest Neighbor
    Search by Residual Vector Quantization", Sensors 2010). A sub-vector is the sum of a word of each stage. There whole
    rows of a dense layer are quantized, which is `size: 0, pointwise_size: 0` here; a detector's layers have
    few filters, so that the sub-vectors of product quantization are the default. What is near, how words learn, what is
    stored and what was changed is as there; `stages: 1` is the same as that plugin.
    """

    Config = ResidualOptions


def cuts(model: "Model", config: ProductOptions) -> "dict[int, Cut]":
    """By the number of each convolution that is quantized: all but the first and those that are excluded.

    Raises InputError for a pattern that matches no convolution, and where none is left.
    """
    from detpress.detector.architecture import Convolution
    from detpress.detector.encoding import weight_shape
    from detpress.detector.layer_patterns import matching_convolutions
    from detpress.detector.network import convolution_of

    architecture = model.architecture
    _, *others = [i for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)]
    excluded = matching_convolutions(config.exclude, architecture, "exclude")
    if excluded >= set(others):
        raise InputError("exclude: all convolutions but the first, which stays in float; expected some that are left")
    shapes = {i: weight_shape(convolution_of(model.network, i)) for i in others if i not in excluded}
    return {i: cut_of(shape, config) for i, shape in shapes.items()}


def cut_of(shape: "torch.Size", config: ProductOptions) -> "Cut":
    """Of a convolution with weights (F, I, k, k)."""
    from detpress.encodings.vector_fitting import Cut

    row = shape[1:].numel()
    asked = config.pointwise_size if shape[2:].numel() == 1 else config.size
    size = min(asked or row, row)
    most = max(1, shape[0] * -(-row // size) // config.vectors_a_word)
    words = config.words if config.words <= most else 1 << (most.bit_length() - 1)
    return Cut(size, words, config.stages if isinstance(config, ResidualOptions) else 1)


def trained(
    model: "Model", words: "dict[int, Words]", config: ProductOptions, bench: Workbench
) -> "tuple[Network, dict[int, Words]]":
    """The network after the training of the words, and these."""
    from dataclasses import replace

    from detpress.training.shared_weights import SharedWeights, codebook_of, no_longer_shared

    fitted = bench.fit(model, config.training.for_epochs(config.epochs), (SharedWeights(words),)).own_network
    learnt = {i: replace(found, codebook=codebook_of(fitted, i)) for i, found in words.items()}
    return no_longer_shared(fitted), learnt


def parts_of(model: "Model", layer: int, words: "Words") -> dict[str, float]:
    """Bytes of a layer by what they are for; `entropy` of the codes, stage by stage."""
    from detpress.detector.network import convolution_of
    from detpress.encodings.huffman_code import entropy_bits

    tensors: dict[str, Any] = convolution_of(model.network, layer).state_dict()
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    return {
        "codebook": sizes["codebook"] + sizes.get("step", 0),
        "code": sizes["codes"],
        "scale": sizes["gain"] + sizes["bias"],
        "entropy": sum(entropy_bits(codes.flatten().numpy()) for codes in words.codes) / 8,
    }
