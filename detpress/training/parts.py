"""Parts of a network that a training treats otherwise than the rest: what is frozen, and what is before the heads."""

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from detpress.detector.architecture import Architecture
from detpress.detector.layer_patterns import spelled, still_matching
from detpress.errors import InputError
from detpress.training.config import TrainingConfig


class Frozen:
    """Layers whose parameters and statistics of BatchNorm a training leaves as they are, bit for bit."""

    def __init__(self, network: nn.Module, architecture: Architecture, patterns: Sequence[str]) -> None:
        """patterns: as `check_training` has checked them.

        Raises InputError for a network that does not have its layers by themselves.
        """
        matched = _matched(network, architecture, patterns)
        self.text = _text(architecture, matched)  # see `frozen_text`
        self.modules = list(matched.values())
        for module in self.modules:
            module.requires_grad_(False)

    def hold_statistics(self) -> None:
        """Before each step: whoever has set the whole network to training has set these, too."""
        for module in self.modules:
            module.eval()


def frozen_text(network: nn.Module, architecture: Architecture, patterns: Sequence[str]) -> str:
    """Which layers with weights the patterns match, for a person; empty where none does."""
    return _text(architecture, _matched(network, architecture, patterns))


def _text(architecture: Architecture, matched: Mapping[int, nn.Module]) -> str:
    names = [architecture.names[layer] for layer, module in matched.items() if any(True for _ in module.parameters())]
    return f"frozen {spelled(names)}" if names else ""


def at_backbone_rate(network: nn.Module, architecture: Architecture, config: TrainingConfig) -> list[nn.Parameter]:
    """All parameters but those of the heads, which end in the raw maps; none where these have no rate of their own.

    Raises InputError for a network without modules of the heads.
    """
    if config.backbone_rate == 1:
        return []
    heads = _modules(network, architecture.heads, "backbone_rate")
    own = {id(parameter) for head in heads.values() for parameter in head.parameters()}
    return [parameter for parameter in network.parameters() if id(parameter) not in own]


def _matched(network: nn.Module, architecture: Architecture, patterns: Sequence[str]) -> dict[int, nn.Module]:
    names = still_matching(patterns, architecture.names)
    return _modules(network, [architecture.names.index(name) for name in names], "frozen")


def _modules(network: nn.Module, layers: Collection[int], option: str) -> dict[int, nn.Module]:
    """By number, the modules of these layers, wherever an engine has put the network's `layers`."""
    wanted = {f"layers.{layer}": layer for layer in layers}
    named = ((".".join(name.split(".")[-2:]), module) for name, module in network.named_modules())
    found = {wanted[name]: module for name, module in named if name in wanted}
    if len(found) != len(wanted):
        raise InputError(f"{option}: the network that is trained here does not have its layers by themselves")
    return dict(sorted(found.items()))
