"""Parts of a network that a training treats otherwise than the rest: what is frozen, and what is before the heads."""

from collections.abc import Collection, Sequence

from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.layer_patterns import still_matching
from detpress.errors import InputError
from detpress.training.config import TrainingConfig


class Frozen:
    """Layers whose parameters and statistics of BatchNorm a training leaves as they are, bit for bit."""

    def __init__(self, network: nn.Module, architecture: Architecture, patterns: Sequence[str]) -> None:
        """patterns: as `check_training` has checked them.

        Raises InputError for a network that does not have its layers by themselves.
        """
        names = still_matching(patterns, architecture.names)
        self.modules = _modules(network, [architecture.names.index(name) for name in names], "frozen")
        for module in self.modules:
            module.requires_grad_(False)

    def hold_statistics(self) -> None:
        """Before each step: whoever has set the whole network to training has set these, too."""
        for module in self.modules:
            module.eval()


def at_backbone_rate(network: nn.Module, architecture: Architecture, config: TrainingConfig) -> list[nn.Parameter]:
    """All parameters but those of the heads, which end in the raw maps; none where these have no rate of their own.

    Raises InputError for a network without modules of the heads.
    """
    if config.backbone_rate == 1:
        return []
    heads = _modules(network, architecture.heads, "backbone_rate")
    own = {id(parameter) for head in heads for parameter in head.parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in own]


def _modules(network: nn.Module, layers: Collection[int], option: str) -> list[nn.Module]:
    """The modules of these layers, wherever an engine has put the network's `layers`."""
    wanted = {f"layers.{layer}" for layer in layers}
    found = {name: module for name, module in network.named_modules() if ".".join(name.split(".")[-2:]) in wanted}
    if len(found) != len(wanted):
        raise InputError(f"{option}: the network that is trained here does not have its layers by themselves")
    return list(found.values())
