"""Deep Compression: pruned weights that share values, and what is left of them in Huffman codes.

chain:
  - prune.magnitude: {sparsity: 0.9, ranking: global}
  - train.finetune: {epochs: 8}
  - deep_compression.share: {epochs: 2}
  - deep_compression.encode: {}
"""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.config import TrainingOptions
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from detpress.detector.architecture import Convolution
    from detpress.detector.model import Model
    from detpress.detector.network import Network
    from detpress.encodings.huffman import Huffman, Parts
    from detpress.encodings.shared import Clusters, Shared

    Stream = tuple[Huffman, dict[str, Tensor], Parts]


class ShareOptions(Options):
    """How many values a layer has, where they begin, and how long they learn."""

    bits: int = Field(8, ge=1, le=8, description="of a weight's code in convolutions of more than 1 x 1")
    pointwise_bits: int = Field(
        5, ge=1, le=8, description="in convolutions of 1 x 1, which are dense layers at every place"
    )
    head_bits: int = Field(8, ge=1, le=8, description="in the convolutions that give the raw maps")
    start: Literal["linear", "random", "density"] = Field(
        "linear",
        description="of k-means: evenly from the smallest weight to the largest, weights drawn by the seed, or evenly "
        "over the weights in their order",
    )
    exclude: list[str] = Field([], description="patterns of layers that stay in float, such as `layers.0`")
    epochs: int = Field(ge=0, le=10_000, description="in which the shared values learn; 0: they are k-means' own")
    training: TrainingOptions = TrainingOptions()

    @model_validator(mode="after")
    def _training_is_read(self) -> Self:
        if not self.epochs and not self.is_default("training"):
            raise ValueError("training: not read: expected beside `epochs` above 0")
        return self


class Share(Plugin):
    """Has the weights of each convolution share few values, found by k-means and trained on.

    Han, Mao, Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
    Coding", arXiv:1510.00149, 2015 (ICLR 2016). k-means within a layer, started evenly from its smallest weight to its
    largest (the paper's best of three); then the values learn, each by the sum of the gradients of the weights that
    share it, while which weight shares which stays. Weights that a pruner has masked take no part: their code is 0,
    and they stay zero. The paper has 8 bits for convolutions and 5 for dense layers, of which a detector's convolutions
    of 1 x 1 are the nearest; n weights of b bits with k values take n log2 k + k b bits.

    Changed: a pruned layer has 2^bits - 1 values beside its zero (the authors' AlexNet file has it so; the paper does
    not say); values that no weight is nearest to are left out; they learn by this trainer's AdamW, which scales the
    summed gradients, with its schedule and moving average, and BatchNorm learns beside them. The paper gives neither
    optimizer, rate nor length for this step.

    Only the file gets smaller: weights are decoded when it is loaded, and as much is computed as before, in every
    runtime and export.
    """

    Config = ShareOptions
    accepts = frozenset({Form.DENSE, Form.MASKED})
    returns = Form.PACKED

    def trains(self, config: ShareOptions) -> bool:
        return config.epochs > 0

    def plan(self, model: "Model", config: ShareOptions) -> Plan:
        from detpress.encodings.shared import planned_clusters, shared_network

        bits = bits_by_layer(model, config)
        planned = {i: planned_clusters(*weight_and_mask(model, i), bits[i]) for i in bits}
        names = tuple(model.architecture.names[i] for i in bits)
        return Plan(names, model.with_network(shared_network(model.own_network, planned), Form.PACKED))

    def check(self, model: "Model", config: ShareOptions, images: ImageCounts) -> None:
        if config.epochs:
            super().check(model, config, images)

    def apply(self, model: "Model", config: ShareOptions, bench: Workbench) -> "Model":
        from detpress.encodings.shared import clusters_of, shared_network

        clusters = {}
        bits = bits_by_layer(model, config)
        for done, i in enumerate(bits, start=1):
            clusters[i] = clusters_of(*weight_and_mask(model, i), bits[i], config.start, bench.seed)
            bench.progress("layers clustered", done, len(bits))
        network = model.own_network
        if config.epochs:
            network, clusters = trained(model, clusters, config, bench)
        weights = sum(found.codes.numel() for found in clusters.values())
        code_bits = sum(found.codes.numel() * found.encoding.stored_bits for found in clusters.values())
        bench.figure("bits_per_weight", code_bits / weights)
        return model.with_network(shared_network(network, clusters), Form.PACKED)


def trained(
    model: "Model", clusters: "dict[int, Clusters]", config: ShareOptions, bench: Workbench
) -> "tuple[Network, dict[int, Clusters]]":
    """The network after the training of the shared values, and its clusters."""
    from detpress.detector.network import weight_name
    from detpress.training.shared_weights import SharedWeights, codebook_of, no_longer_shared

    shared = {weight_name(i) for i in clusters}  # whose zeros their codes hold
    others = {name: mask for name, mask in model.masks.items() if name not in shared}
    training = config.training.for_epochs(config.epochs)
    fitted = bench.fit(replace(model, masks=others), training, (SharedWeights(clusters),)).own_network
    learnt = {i: replace(found, codebook=codebook_of(fitted, i)) for i, found in clusters.items()}
    return no_longer_shared(fitted), learnt


def bits_by_layer(model: "Model", config: ShareOptions) -> dict[int, int]:
    """Of a code, by the number of each convolution that shares values.

    Raises InputError for a pattern that matches no convolution, and where none is left.
    """
    from detpress.detector.architecture import Convolution
    from detpress.detector.layer_patterns import matching_convolutions

    architecture = model.architecture
    found = {i: layer for i, layer in enumerate(architecture.layers) if isinstance(layer, Convolution)}
    excluded = matching_convolutions(config.exclude, architecture, "exclude")
    if len(excluded) == len(found):
        raise InputError("exclude: all convolutions; expected some that share values")
    heads = architecture.heads
    return {i: bits_of(layer, i in heads, config) for i, layer in found.items() if i not in excluded}


def bits_of(layer: "Convolution", is_head: bool, config: ShareOptions) -> int:
    if is_head:
        return config.head_bits
    return config.pointwise_bits if layer.kernel == (1, 1) else config.bits


def weight_and_mask(model: "Model", layer: int) -> "tuple[Tensor, Tensor | None]":
    """Of a convolution; None where nothing of it is masked."""
    from detpress.detector.network import weight_name

    name = weight_name(layer)
    return model.network.get_parameter(name).detach(), model.masks.get(name)


class EncodeOptions(Options):
    """How the places of the weights are written."""

    index_bits: Literal["smallest", 4, 5, 8] = Field(
        "smallest", description="of the gap from a weight that is kept to the next; the fewest bytes by default"
    )


class Encode(Plugin):
    """Writes shared weights as Huffman codes of their values and, where a layer is pruned, of the gaps between them.

    Han, Mao, Dally, "Deep Compression", arXiv:1510.00149, 2015 (ICLR 2016). Where weights are pruned, only those that
    are kept are written, each with the gap from the one before it in the order of memory; a gap too long for its bits
    (8 in the paper's convolutions, 5 in its dense layers) has fillers, which are zeros. Codes and gaps are
    Huffman-coded, by a table a layer each, which takes another 20 to 30 % off, says the paper. The bundle is that file:
    what it decodes to is what was shared, bit for bit.

    Changed: by default each layer's gaps have the bits that make its file smallest; layers that are not pruned have
    no gaps.

    `plugin.code_bytes`, `index_bytes`, `codebook_bytes`, `table_bytes` and `scale_bytes` (BatchNorm's gain and bias, in
    float) are all that the layers take; `fixed_bytes` are codes and gaps before Huffman's coding, and `entropy_bytes`
    is what no code that gives each symbol bits of its own brings them below. `files/bytes.csv` has them by layer.
    """

    Config = EncodeOptions
    accepts = frozenset({Form.PACKED})
    returns = Form.PACKED

    def plan(self, model: "Model", config: EncodeOptions) -> Plan:
        streams = streams_of(model, config)
        return Plan(tuple(model.architecture.names[i] for i in streams), with_streams(model, streams))

    def apply(self, model: "Model", config: EncodeOptions, bench: Workbench) -> "Model":
        from detpress.plugins.coded_bytes import keep_bytes

        streams = streams_of(model, config, bench.progress)
        keep_bytes(bench, {i: asdict(parts) for i, (_, _, parts) in streams.items()})
        return with_streams(model, streams)


def streams_of(
    model: "Model", config: EncodeOptions, progress: "Callable[[str, int, int], None]" = lambda *_: None
) -> "dict[int, Stream]":
    """By layer. Raises InputError where no layer has shared weights."""
    from detpress.encodings.shared import Shared

    found = {i: encoding for i, encoding in model.encodings.items() if isinstance(encoding, Shared)}
    if not found:
        raise InputError(
            "no layer's weights share values that are not coded yet; expected `deep_compression.share` before"
        )
    streams = {}
    for done, (i, encoding) in enumerate(found.items(), start=1):
        streams[i] = stream_of(model, i, encoding, config)
        progress("layers encoded", done, len(found))
    return streams


def stream_of(model: "Model", layer: int, encoding: "Shared", config: EncodeOptions) -> "Stream":
    from detpress.detector.network import convolution_of
    from detpress.encodings.huffman import huffman_of, smallest_of

    tensors = convolution_of(model.network, layer).state_dict()
    if config.index_bits == "smallest":
        return smallest_of(encoding, tensors)
    return huffman_of(encoding, tensors, config.index_bits)


def with_streams(model: "Model", streams: "Mapping[int, Stream]") -> "Model":
    from detpress.detector.network import with_encoded

    encoded = {i: (encoding, tensors) for i, (encoding, tensors, _) in streams.items()}
    return model.with_network(with_encoded(model.own_network, encoded), Form.PACKED)
