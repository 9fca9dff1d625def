"""CLIP-Q: pruning and rounding to levels at once, anew in every step of the training.

chain:
  - clip_q: {epochs: 4}
  - deep_compression.encode: {}
"""

import csv
import json
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError
from detpress.options import Options
from detpress.training.config import TrainingOptions
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from detpress.detector.model import Model
    from detpress.detector.network import Network
    from detpress.training.clipped_weights import Clipping

CANDIDATES, STARTS = 500, 2  # of the Gaussian process: a layer has two numbers, and there are many layers


class ClipQOptions(Options):
    """What is searched for each layer, and how long it learns then."""

    trade_off: float = Field(
        0.1, ge=0, description="lambda: how much of the raw maps' noise the saving of all bits is worth"
    )
    trials: int = Field(12, ge=3, le=1000, description="pairs of share and bits tried for each layer")
    images: int = Field(4, ge=1, description="training images that the error of a trial is measured on")
    largest_share: float = Field(0.9, gt=0, le=0.99, description="of a layer's weights that may be clipped to zero")
    bits: list[int] = Field(
        [2, 8], min_length=2, max_length=2, description="fewest and most bits of a code, from 2 to 8"
    )
    exclude: list[str] = Field([], description="patterns of layers that stay in float, such as `layers.0`")
    epochs: int = Field(ge=1, le=10_000, description="in which the weights learn, clipped and rounded")
    training: TrainingOptions = TrainingOptions()

    @field_validator("bits")
    @classmethod
    def _from_fewest_to_most(cls, bits: list[int]) -> list[int]:
        if not 2 <= bits[0] <= bits[1] <= 8:
            raise ValueError("expected [fewest, most] from 2 to 8")
        return bits


class ClipQ(Plugin):
    """Clips small weights to zero and rounds the others to few levels in every step, while the real weights learn.

    Tung, Mori, "CLIP-Q: Deep Network Compression Learning by In-Parallel Pruning-Quantization", CVPR 2018 (not on
    arXiv; known here second hand). A layer has a share p and bits b. In every minibatch the share p of its positive and
    of its negative weights, those nearest to zero, become 0; the rest of the line is cut into 2^b - 1 intervals of
    equal length, whose weights have their mean. The real weights get the gradient, so that what is pruned may come
    back. Before the training, a Gaussian process (NNI's tuner, `nni.gp`) searches p and b of each layer for the least
    error - lambda x bits saved.

    Changed: the error is the noise at the raw maps as a share of the signal's power, on a few training images, where
    the paper has the classification error; layers are searched in their order, each beside those before it as they
    were chosen; the bits that a layer saves are the share 1 - (1 - p) b / 32 of its own; intervals do not cross zero;
    the training is this trainer's. How the paper orders layers, places intervals and counts bits could not be checked.

    What comes out is as `deep_compression.share` leaves it, so `deep_compression.encode` may follow, which writes only
    the weights that are kept. Only the file gets smaller: as much is computed as before. `files/clip_q.csv` has share
    and bits of every layer.
    """

    Config = ClipQOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.PACKED
    engine = "nni"

    def plan(self, model: "Model", config: ClipQOptions) -> Plan:
        import torch

        from detpress.encodings.shared import planned_clusters, shared_network

        layers = layers_of(model, config)
        ones = {i: torch.ones_like(model.network.get_parameter(f"layers.{i}.convolution.weight")) for i in layers}
        planned = {i: planned_clusters(weight, None, config.bits[1]) for i, weight in ones.items()}
        names = tuple(model.architecture.names[i] for i in layers)
        network = shared_network(model.own_network, planned)
        return Plan(
            names, model.with_network(network, Form.PACKED), "which weights become 0 is known when it is trained"
        )

    def check(self, model: "Model", config: ClipQOptions, images: ImageCounts) -> None:
        super().check(model, config, images)
        images.check_asked(config, "images")

    def apply(self, model: "Model", config: ClipQOptions, bench: Workbench) -> "Model":
        from detpress.encodings.shared import shared_network
        from detpress.training.clipped_weights import ClippedWeights, levels_of
        from detpress.training.shared_weights import no_longer_shared

        clippings = searched(model, config, bench)
        fitted = bench.fit(model, config.training.for_epochs(config.epochs), (ClippedWeights(clippings),)).own_network
        clusters = {i: levels_of(fitted, i, clipping) for i, clipping in clippings.items()}
        keep_figures(clippings, {i: found.codes for i, found in clusters.items()}, bench)
        return model.with_network(shared_network(no_longer_shared(fitted), clusters), Form.PACKED)


def layers_of(model: "Model", config: ClipQOptions) -> list[int]:
    """The convolutions that are clipped. Raises InputError for a pattern that matches none, and where none is left."""
    from detpress.detector.architecture import Convolution
    from detpress.detector.layer_patterns import matching_convolutions

    excluded = matching_convolutions(config.exclude, model.architecture, "exclude")
    every = [i for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution)]
    if len(excluded) == len(every):
        raise InputError("exclude: all convolutions; expected some that are clipped")
    return [i for i in every if i not in excluded]


def searched(model: "Model", config: ClipQOptions, bench: Workbench) -> "dict[int, Clipping]":
    """Share and bits of each layer; a layer that was searched before a kill is not searched again."""
    import torch

    from detpress.training.clipped_weights import Clipping

    images = bench.calibration(config.images, config.is_default("images"))
    current = model.own_network
    with torch.inference_mode():
        wanted = [raw.clone() for raw in current(images)]
    layers = layers_of(model, config)
    found: dict[int, Clipping] = {}
    for done, i in enumerate(layers):
        bench.progress(f"layers.{i} searched", done, len(layers))

        def search(folder: "Path", i: int = i, network: "Network" = current) -> None:
            best = best_clipping(network, i, images, wanted, config, bench)
            (folder / "clipping.json").write_text(json.dumps(best))

        folder = bench.remember({"clip_q": i}, search)
        found[i] = Clipping(*json.loads((folder / "clipping.json").read_text()))
        current = with_levels(current, i, found[i])
    return found


def best_clipping(
    network: "Network", layer: int, images: "Tensor", wanted: "list[Tensor]", config: ClipQOptions, bench: Workbench
) -> "Clipping":
    """The best of the pairs that the Gaussian process proposes."""
    import torch

    from detpress.contract.tuner import Distribution
    from detpress.measure.sensitivity import signal_to_noise
    from detpress.plugins.nni_tune import GP, GPOptions
    from detpress.training.clipped_weights import Clipping

    space = {
        "share": Distribution("uniform", (0.0, config.largest_share)),
        "bits": Distribution("randint", (config.bits[0], config.bits[1] + 1)),
    }
    options = GPOptions(startup=max(2, config.trials // 2), candidates=CANDIDATES, starts=STARTS)
    proposals = GP().start(space, options, bench.seed, bench.log)
    best, best_score = Clipping(0.0, config.bits[1]), -float("inf")
    for _ in range(config.trials):
        values = proposals.ask()
        assert values is not None
        tried = Clipping(values["share"], values["bits"])
        with torch.inference_mode():
            given = with_levels(network, layer, tried)(images)
            noise = 10 ** (-signal_to_noise(list(zip(wanted, given, strict=True))) / 10)
        score = config.trade_off * saved(tried) - noise
        proposals.tell(values, score)
        if score > best_score:
            best, best_score = tried, score
    bench.log.info("layers.%d: %.3f of its weights clipped, %d bits", layer, *best)
    return best


def saved(clipping: "Clipping") -> float:
    """The share of a layer's 32 bits a weight that it saves."""
    return 1 - (1 - clipping.share) * clipping.bits / 32


def with_levels(network: "Network", layer: int, clipping: "Clipping") -> "Network":
    """`network` with the levels of a convolution in the place of its weights, in float."""
    from detpress.detector.network import convolution_of, with_encoded
    from detpress.encodings.clipping import clipped_levels
    from detpress.encodings.shared import looked_up

    tensors = convolution_of(network, layer).state_dict()
    found = clipped_levels(tensors["weight"], *clipping)
    tensors["weight"] = looked_up(found.codebook, found.codes, found.sparse)
    return with_encoded(network, {layer: (network.encodings[layer], tensors)})


def keep_figures(clippings: "dict[int, Clipping]", codes: "dict[int, Tensor]", bench: Workbench) -> None:
    weights = sum(found.numel() for found in codes.values())
    zeros = {i: int((found == 0).sum()) for i, found in codes.items()}
    bench.figure("bits_per_weight", sum(clippings[i].bits * codes[i].numel() for i in codes) / weights)
    bench.figure("share_of_zeros", sum(zeros.values()) / weights)
    with bench.keep("clip_q.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "weights", "zeros", "share", "bits"])
        writer.writerows(
            [i, codes[i].numel(), zeros[i], f"{share:.4f}", bits] for i, (share, bits) in clippings.items()
        )
