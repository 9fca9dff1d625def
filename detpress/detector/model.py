"""A model on its way through a chain: the network, and what must be known to rebuild and to judge it."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.encoding import SIXTEEN_BITS, Encoding
from detpress.detector.form import Form
from detpress.detector.network import Network
from detpress.errors import StageError


@dataclass
class Model:
    """A detector.

    network: gives raw maps (see `Network.forward`) and holds its `architecture`; a `Network`, but on the way through an
        engine.
    masks: parameter name -> bool tensor of the parameter's shape, False where the weight is held at zero.
    history: what was done to get here, oldest first, one record a stage, and one of the import from another program's
        files; kept in the bundle as its provenance.
    notes: what a person should be told of how the last stage went, a sentence each; kept in its record.
    """

    network: nn.Module
    masks: dict[str, Tensor] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def architecture(self) -> Architecture:
        architecture = self.network.architecture
        assert isinstance(architecture, Architecture)
        return architecture

    @property
    def own_network(self) -> Network:
        """The network, where it is not on its way through an engine."""
        assert isinstance(self.network, Network)
        return self.network

    @property
    def encodings(self) -> dict[int, Encoding]:
        """Of the convolutions, by layer number."""
        return self.network.encodings if isinstance(self.network, Network) else {}

    @property
    def form(self) -> Form:
        """What the model is as a whole; where its layers are encoded differently, the first of these that is true."""
        encodings = self.encodings.values()
        if any(encoding.simulated for encoding in encodings):
            return Form.SIMULATED
        if any(encoding.precision == "int8" for encoding in encodings):
            return Form.INT8
        if any(encoding.precision in SIXTEEN_BITS for encoding in encodings):
            return Form.HALF
        if any(encoding.stored_bits < 32 for encoding in encodings):
            return Form.PACKED
        return Form.MASKED if self.masks else Form.DENSE

    def with_network(
        self, network: nn.Module, form: Form | None = None, masks: dict[str, Tensor] | None = None
    ) -> "Model":
        """This model with another network, history and notes kept; masks, too, unless others are given.

        form: what the new model is. A model that is to have another form than `MASKED` keeps no masks.
        Raises StageError where it is something else, and where masks do not fit the new network.
        """
        if masks is None:
            masks = self.masks if form in (None, Form.MASKED) else {}
        parameters = dict(network.named_parameters())
        for name, mask in masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise StageError(f"the mask of {name} does not fit the new network; expected others, or another form")
        found = replace(self, network=network, masks=masks)
        if form is not None and found.form is not form:
            raise StageError(f"the new network makes a {found.form} model, not a {form} one")
        return found


def new_model(architecture: Architecture, seed: int) -> Model:
    """A dense model with PyTorch's default initial weights drawn from `seed`; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(Network(architecture).eval())


def difference(one: Model, other: Model) -> str:
    """What distinguishes the models: the name of a tensor, or what else; "" for the same bits."""
    if one.architecture != other.architecture:
        return "the list of layers"
    if one.encodings != other.encodings:
        return "how layers are encoded"
    for what, mine, theirs in (
        ("", one.network.state_dict(), other.network.state_dict()),
        ("the mask of ", one.masks, other.masks),
    ):
        if mine.keys() != theirs.keys():
            return f"which {'masks' if what else 'tensors'} there are"
        for name, tensor in mine.items():
            if not torch.equal(tensor.cpu(), theirs[name].cpu()):
                return f"{what}{name}"
    return ""


def apply_masks(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Sets to zero, in place, every weight whose mask is False."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask.to(parameters[name].device))
