"""A network some of whose convolutions are replaced by several smaller ones."""

from collections.abc import Collection, Mapping

from detpress.detector.architecture import Architecture
from detpress.detector.float32 import Float32
from detpress.detector.folding import stored_weight
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, filled_network, weight_name
from detpress.detector.replacement import replace_layer
from detpress.low_rank.choice import Choice, choices_of
from detpress.low_rank.factorization import Factorization, Ranks
from detpress.progress import Progress


def replaceable(architecture: Architecture, method: Factorization) -> list[int]:
    """The convolutions that the method fits, but for the heads.

    What a head gives are boxes and logits as they are, with nothing behind that could set them right; and the squares
    of their weights do not tell how much one counts beside the other.
    """
    heads = set(architecture.heads)
    return [
        i
        for i, layer in enumerate(architecture.layers)
        if isinstance(layer, Convolution) and i not in heads and method.fits(layer)
    ]


def network_choices(network: Network, method: Factorization, layers: Collection[int]) -> dict[int, list[Choice]]:
    """Of those layers, by their numbers, for which there are fewer MACs than the layer's own."""
    architecture = network.architecture
    taken, found = architecture.taken_maps, {}
    for i in layers:
        layer = architecture.layers[i]
        assert isinstance(layer, Convolution)
        choices = choices_of(method, layer, taken[i][0], method.energies(stored_weight(network, i)))
        if len(choices) > 1:
            found[i] = choices
    return found


def replaced_layers(architecture: Architecture, method: Factorization, ranks: Mapping[int, Ranks]) -> Architecture:
    """The layer list where some layers, by their numbers, are replaced with such ranks."""
    for i in sorted(ranks, reverse=True):  # so that the numbers before stay
        layer = architecture.layers[i]
        assert isinstance(layer, Convolution)
        architecture = replace_layer(architecture, i, method.layers(layer, ranks[i])).architecture
    return architecture


def replaced_in(network: Network, method: Factorization, ranks: Mapping[int, Ranks], progress: Progress) -> Network:
    """The network where some layers, by their numbers, are replaced with such ranks; it shares no tensor with it."""
    architecture, encodings = network.architecture, dict(network.encodings)
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for done, i in enumerate(sorted(ranks, reverse=True)):
        progress("layers replaced", done, len(ranks))
        layer = architecture.layers[i]
        assert isinstance(layer, Convolution)
        new = replace_layer(architecture, i, method.layers(layer, ranks[i]))
        last = new.number(i)
        behind = {
            name.replace(f"layers.{i}.", f"layers.{last}.", 1): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"layers.{i}.")
        }
        weights = method.weights(stored_weight(network, i), ranks[i])
        own = {weight_name(i + k): weight for k, weight in enumerate(weights)}
        tensors = new.renamed(tensors) | behind | own
        encodings = {new.number(k): encoding for k, encoding in encodings.items()}
        encodings |= {k: Float32() for k in range(i, last)}
        architecture = new.architecture
    return filled_network(architecture, encodings, tensors)
