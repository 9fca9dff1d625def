"""Networks of fewer filters: filters taken out of one, and one made again that another library has narrowed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.channels import without_filters
from detpress.detector.coupling import follow_channels
from detpress.detector.kinds import Convolution
from detpress.detector.network import Network, weight_name, without_memory
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
            layer.with_filters(len(tensors[weight_name(i)])) if isinstance(layer, Convolution) else layer
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


@dataclass(frozen=True)
class Narrowing:
    """Which of a network's filters stay, and so what of each tensor.

    architecture: of what is left. selected: tensor's name -> dimension and the numbers that stay along it, of those
    that lose something.
    """

    architecture: Architecture
    selected: Mapping[str, tuple[tuple[int, Tensor], ...]]

    def tensors(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is left of the whole network's tensors, by the same names; differentiable. Others stay themselves."""
        found = {}
        for name, tensor in whole.items():
            for dimension, numbers in self.selected.get(name, ()):
                tensor = tensor.index_select(dimension, numbers.to(tensor.device))
            found[name] = tensor
        return found


def narrowing(network: Network, kept: Mapping[int, Tensor]) -> Narrowing:
    """kept and errors: as `narrow` has them."""
    architecture = network.architecture
    removed = {i: int((~filters).sum()) for i, filters in kept.items()}
    left = follow_channels(architecture, kept, other=1)
    narrower = without_filters(architecture, removed)
    with without_memory():
        shapes = {name: tensor.shape for name, tensor in Network(narrower, network.encodings).state_dict().items()}
    selected: dict[str, tuple[tuple[int, Tensor], ...]] = {}
    for name, tensor in network.state_dict().items():
        i = int(name.split(".")[1])
        [incoming, *_] = architecture.layers[i].inputs(i)
        along = [left[i], left[incoming]] if incoming >= 0 else [left[i]]
        for dimension, (is_now, becomes) in enumerate(zip(tensor.shape, shapes[name], strict=True)):
            if is_now != becomes:
                # A convolution's filters lie along its first dimension, what they take along its second: where it
                # has groups, of each the same, from the first on.
                channels = along[min(dimension, len(along) - 1)]
                if dimension == 1 and isinstance(architecture.layers[i], Convolution):
                    channels = channels[:is_now]
                if (len(channels), int(channels.sum())) != (is_now, becomes):
                    raise StageError(f"{name} does not go with its channels: {is_now} where {becomes} are left")
                selected[name] = (*selected.get(name, ()), (dimension, channels.nonzero().flatten()))
    return Narrowing(narrower, selected)


def narrow(network: Network, kept: Mapping[int, Tensor]) -> Network:
    """The network without the filters that are not kept: the same maps as with these masked (`masks_of_filters`).

    kept: convolution's layer number -> bool (filters,), alike for coupled filters; all others keep theirs.
    Raises StageError where a tensor of a layer of another package cannot go with its channels.
    """
    found = narrowing(network, kept)
    with without_memory():
        smaller = Network(found.architecture, network.encodings)
    tensors = found.tensors(network.state_dict())
    smaller.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()}, assign=True)
    return smaller.eval()
