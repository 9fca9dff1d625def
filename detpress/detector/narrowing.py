"""A network made again from one whose convolutions another library has narrowed."""

from dataclasses import replace

from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, without_memory
from detpress.errors import InputError, StageError


def narrowed_network(modules: nn.Module, architecture: Architecture) -> Network:
    """The network of the widths and tensors that `modules` have.

    modules: was a `Network` of `architecture` and still calls its tensors as one, such as
        `layers.3.convolution.weight`, whatever holds them now; its forward pass does not matter.
    Raises StageError where tensors are missing, and where the widths make no network.
    """
    tensors = modules.state_dict()
    try:
        layers = tuple(
            layer.with_filters(len(tensors[f"layers.{i}.convolution.weight"]))
            if isinstance(layer, Convolution)
            else layer
            for i, layer in enumerate(architecture.layers)
        )
        with without_memory():
            network = Network(replace(architecture, layers=layers))
        network.load_state_dict({name: tensors[name] for name in network.state_dict()}, assign=True)
    except KeyError as error:
        raise StageError(f"the narrowed network has no tensor {error}") from error
    except (InputError, RuntimeError) as error:
        raise StageError(f"the narrowed tensors make no network: {error}") from error
    return network.eval()
