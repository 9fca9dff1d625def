"""Darknet's `.weights` files, byte for byte, and whole models from a `.cfg` and a `.weights` file.

A file is a header and then float32 numbers, little-endian, layer after layer. A convolution has, in this order,

    with batch normalisation       its bias, weight, running mean and running variance, the convolution's weight
    without                        the convolution's bias and weight

and no other layer has any. See `load_weights_upto` and `load_convolutional_weights` in `src/parser.c` of
https://github.com/pjreddie/darknet. A backbone file such as `darknet53.conv.74` ends after some layer (that one has
the first 75).

What the numbers mean differs a little: for inference Darknet's CPU code (`normalize_cpu` in `src/blas.c`) divides by
sqrt(variance) + 1e-6, detpress, as PyTorch's default, by sqrt(variance + 1e-5); with a variance of 1 the outputs of a
layer differ by 4e-6 of their size, with 0.001 by 0.5 %.
"""

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Resize
from detpress.detector.darknet_cfg import NOTHING, read_description, write_cfg
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network, filled_network, without_memory
from detpress.errors import InputError
from detpress.files.plain import plain

HISTORY_KEY = "darknet"  # of the record of an import: the header of the weights file, and
KEPT_KEY = "options"  # the options of the cfg file that decide nothing here
SHARED = "share_index"  # the option of a layer that has the weights of another one


@dataclass(frozen=True)
class WeightsHeader:
    """Version of the format, and how many images the network had seen in training.

    `seen` has 64 bits from version 0.2 on, 32 before (and where a number of the version is 1000 or more).
    """

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return struct.calcsize(self._format)

    @property
    def _format(self) -> str:
        long = self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000
        return "<3iQ" if long else "<3ii"

    def pack(self) -> bytes:
        return struct.pack(self._format, self.major, self.minor, self.revision, self.seen)

    @classmethod
    def unpack(cls, start: bytes) -> "WeightsHeader":
        """Raises struct.error where `start` is too short."""
        version = struct.unpack_from("<3i", start)
        return cls(*struct.unpack_from(cls(*version)._format, start))

    @classmethod
    def of(cls, model: Model) -> "WeightsHeader":
        """The header of the file that `model` was imported from; a new one where anything was done to it since.

        Raises InputError where the model's history holds a header that no file has.
        """
        kept = model.history[-1].get(HISTORY_KEY) if model.history else None
        if kept is None:
            return cls()
        try:
            header = cls(**kept)
            header.pack()
        except (TypeError, struct.error) as error:
            raise InputError(f"history: not the header of a Darknet weights file: {str(kept)[:80]}") from error
        return header


def weights_size(
    architecture: Architecture,
    header: WeightsHeader | None = None,
    layers: int | None = None,
    shared: Collection[int] = (),
) -> int:
    """Bytes of a weights file with the first `layers` layers, all by default, but for those that are `shared`."""
    numbers = _layer_numbers(architecture)[:layers]
    own = sum(count for i, count in enumerate(numbers) if i not in shared)
    return (header or WeightsHeader()).size + 4 * own


def read_weights(
    path: Path, network: Network, layers: int | None = None, shared: Mapping[int, int] | None = None
) -> WeightsHeader:
    """Fills the first `layers` layers of `network` in place, all by default; the others keep what they have.

    shared: layer number -> the one whose weights it has, too: the file has these once.
    Raises InputError for a file that has not exactly as many numbers as these layers take, one that is not finite, or a
    variance below 0.
    """
    try:
        with plain(path).open("rb") as file:
            shared = shared or {}
            header = _read_header(path, file, network.architecture, layers, shared)
            file.seek(header.size)
            with torch.no_grad():
                for name, tensor in _tensors(network, layers, shared).items():
                    numbers = np.fromfile(file, "<f4", tensor.numel())
                    if not np.isfinite(numbers).all():
                        raise InputError(f"{path}: {name} has a number that is not finite; the training diverged?")
                    if name.endswith("running_var") and (numbers < 0).any():
                        raise InputError(f"{path}: {name} has a variance below 0; is it of another network?")
                    tensor.copy_(torch.from_numpy(numbers).view_as(tensor))
                for layer, source in shared.items():
                    network.layers[layer].load_state_dict(network.layers[source].state_dict())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return header


def write_weights(
    path: Path,
    network: Network,
    header: WeightsHeader | None = None,
    layers: int | None = None,
    shared: Collection[int] = (),
) -> None:
    """Writes the first `layers` layers of `network`, all by default, but for those that are `shared`."""
    with path.open("wb") as file:
        file.write((header or WeightsHeader()).pack())
        for tensor in _tensors(network, layers, shared).values():
            file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def read_model(cfg: Path, weights: Path, classes: list[str], resize: Resize | None = None) -> Model:
    """The model that Darknet's two files hold, named like the cfg file.

    Its history tells the weights' header and what the cfg has for Darknet's training, its notes what was done with
    what the files say. resize: instead of what the cfg says.
    Raises InputError where either is not understood, or the weights are not of the network; before any memory is
    taken for its weights.
    """
    said = read_description(cfg, classes, resize=resize)
    architecture, shared, notes = said.architecture, said.shared, list(said.notes)
    try:
        with plain(weights).open("rb") as file:
            if shared and file.seek(0, 2) >= weights_size(architecture):
                shared = {}
                notes.append("share_index: the weights file has weights for each of these layers, which are read")
            elif shared:
                notes.append(f"share_index: {len(shared)} layers have the weights of others; from now on their own")
            file.seek(0)
            _read_header(weights, file, architecture, None, shared)
    except OSError as error:
        raise InputError(f"{weights}: cannot be read: {error}") from error
    model = new_model(architecture, seed=0)
    header = read_weights(weights, model.own_network, shared=shared)
    kept = {name: dict(options) for name, options in said.kept.items()}
    for layer, source in shared.items():
        kept.setdefault(f"layers.{layer}", {})[SHARED] = str(source)
    files = {"cfg": cfg.name, "weights": weights.name}
    record = {"plugin": "import", "config": files, HISTORY_KEY: asdict(header)}
    if kept:
        record[KEPT_KEY] = kept
    return replace(model, history=(record,), notes=tuple(notes))


def kept_options(model: Model) -> dict[str, dict[str, str]]:
    """By layer (`net`, or its name), what the cfg file that the model was imported from has for Darknet's training.

    Raises InputError where the model's history holds what no such file has.
    """
    first = model.history[0] if model.history else {}
    kept = first.get(KEPT_KEY, {}) if first.get("plugin") == "import" else {}
    try:
        pairs = [pair for options in kept.values() for pair in options.items()]
        fine = all(re.fullmatch(r"[^\s#;\[=][^\s=]*", name) and re.fullmatch(r"\S+", value) for name, value in pairs)
    except (AttributeError, TypeError):
        fine = False
    if not fine:
        raise InputError(f"history: not the options of a Darknet cfg file: {str(kept)[:80]}")
    return {name: dict(options) for name, options in kept.items()}


def write_model(
    network: Network,
    cfg: Path,
    weights: Path,
    header: WeightsHeader | None = None,
    kept: Mapping[str, Mapping[str, str]] = NOTHING,
) -> None:
    """Writes the network, of any widths, as Darknet's two files, from which `read_model` gives the same outputs.

    kept: of `kept_options`.
    """
    network = _with_biases(network)
    shared = _still_shared(network, kept)
    options = {name: {option: kept[name][option] for option in kept[name] if option != SHARED} for name in kept}
    for layer, source in shared.items():
        options[network.architecture.names[layer]][SHARED] = str(source)
    cfg.write_text(write_cfg(network.architecture, options), encoding="utf-8")
    write_weights(weights, network, header, shared=shared)


def _still_shared(network: Network, kept: Mapping[str, Mapping[str, str]]) -> dict[int, int]:
    """The layers that had the weights of another one when they were imported, and have them still."""
    numbers = {name: i for i, name in enumerate(network.architecture.names)}
    found = {}
    for name, options in kept.items():
        layer, source = numbers.get(name), numbers.get(f"layers.{options.get(SHARED)}")
        if layer is not None and source is not None and source < layer:
            own, other = network.layers[layer].state_dict(), network.layers[source].state_dict()
            if own.keys() == other.keys() and all(torch.equal(own[part], other[part]) for part in own):
                found[layer] = source
    return found


def _with_biases(network: Network) -> Network:
    """Every convolution of Darknet's has a bias, or batch normalisation: zeros where there was neither."""
    layers, state = list(network.architecture.layers), network.state_dict()
    for i, layer in enumerate(layers):
        if isinstance(layer, Convolution) and not layer.bias:
            layers[i] = replace(layer, bias=True)
            if not layer.batch_normalize:
                state[f"layers.{i}.convolution.bias"] = torch.zeros(layer.filters)
    return filled_network(replace(network.architecture, layers=tuple(layers)), {}, state)


def _tensors(network: Network, layers: int | None, shared: Collection[int]) -> dict[str, Tensor]:
    """Parameters and running statistics of the first `layers` layers by name, in the file's order."""
    state = network.state_dict(keep_vars=True)
    names = [
        f"layers.{i}.{name}"
        for i, layer in enumerate(network.architecture.layers[:layers])
        if i not in shared
        for name in layer.weights_in_order()
    ]
    return {name: state[name] for name in names}


def _layer_numbers(architecture: Architecture) -> list[int]:
    """How many numbers each layer has in the file."""
    with without_memory():
        state = Network(architecture).state_dict()
    return [
        sum(state[f"layers.{i}.{name}"].numel() for name in layer.weights_in_order())
        for i, layer in enumerate(architecture.layers)
    ]


def _read_header(
    path: Path, file: BinaryIO, architecture: Architecture, layers: int | None, shared: Collection[int]
) -> WeightsHeader:
    """Raises InputError where the rest of the file is not the first `layers` layers of the network."""
    try:
        header = WeightsHeader.unpack(file.read(20))
    except struct.error:
        raise InputError(f"{path}: too short for the header of a Darknet weights file") from None
    found, expected = file.seek(0, 2), weights_size(architecture, header, layers, shared)
    if found != expected:
        part = "" if layers is None else f"the first {layers} layers of "
        raise InputError(
            f"{path}: has {found} bytes, but {part}{architecture.name} with {len(architecture.classes)} classes "
            f"takes {expected}{_explanation(architecture, found - header.size)}"
        )
    return header


def _explanation(architecture: Architecture, found: int) -> str:
    """What else `found` bytes of numbers would be, if anything is known to have that size."""
    numbers = _layer_numbers(architecture)
    total = 0
    for i, count in enumerate(numbers[:-1], start=1):
        total += count
        if count and 4 * total == found:
            return f"; it has the size of the first {i} layers, a backbone's"
    per_class = sum(
        numbers[i] // (5 + len(architecture.classes)) for i in architecture.heads
    )  # a head has filters, so numbers, in proportion to 5 + classes
    missing, rest = divmod(found - 4 * sum(numbers), 4 * per_class)
    if not rest and len(architecture.classes) + missing > 0:
        return f"; it has the size of this network with {len(architecture.classes) + missing} classes"
    return ""
