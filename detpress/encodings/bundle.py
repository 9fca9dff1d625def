"""A model as a folder: rebuilt from plain data, with neither pickle nor the engine that made it.

    model.json           the layer list, class names, form, and the history of the model
    weights.safetensors  the state dict of the network, masks beside it under `mask/<parameter>`
    SHA256SUMS           digests of both, as `sha256sum --check` reads them

A pruned network is nothing special: its layer list holds the widths that it has. Layers that are not float32 with
BatchNorm have an entry under `encodings`, by name: the encoding's name and its options; its numbers are tensors like
all others. `between` has the scales of an int8 network's other tensors. The form is there to be read by people: it
follows from the encodings and masks. Bundles of before `encodings` are read, too (see `old_encodings`).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.encoding import Encoding
from detpress.detector.float32 import Float32
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.detector.network import Network, fill, without_memory
from detpress.detector.promises import check_encodings
from detpress.encodings.known import encoding_as_dict, encoding_from_dict
from detpress.encodings.old_encodings import READERS, old_encodings, scales_from_dict
from detpress.errors import InputError, own_kind, shortened
from detpress.files.plain import plain
from detpress.files.plain_json import check_keys, parse_json

FORMAT = 1
MASK = "mask/"
OPTIONAL = ("encodings", "between", *READERS)


def save_bundle(model: Model, folder: Path) -> None:
    """Writes `model` into `folder`, which must not exist. The same model gives the same bytes.

    Raises InputError, and writes nothing, for an encoding that could not be read again.
    """
    network = model.network
    if isinstance(network, Network):
        check_encodings(network)
    encodings = {
        f"layers.{i}": encoding_as_dict(encoding)
        for i, encoding in model.encodings.items()
        if type(encoding) is not Float32
    }
    description: dict[str, Any] = {
        "format": FORMAT,
        "form": model.form,
        "architecture": model.architecture.as_dict(),
        "history": list(model.history),
    }
    if encodings:
        description["encodings"] = encodings
    if isinstance(network, Network) and network.between:
        description["between"] = {name: [scale.scale, scale.zero_point] for name, scale in network.between.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {MASK + name: mask.cpu().contiguous() for name, mask in model.masks.items()}
    contents = {
        "model.json": json.dumps(description, indent=1, ensure_ascii=False).encode() + b"\n",
        "weights.safetensors": safetensors.torch.save(tensors),
    }
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()]
    (folder / "SHA256SUMS").write_text("".join(sums))


def bundle_digest(folder: Path) -> str:
    """What identifies the bundle's contents: the sha256 of its SHA256SUMS."""
    return hashlib.sha256(_read(folder, "SHA256SUMS")).hexdigest()


def bundle_bytes(folder: Path) -> int:
    """Bytes that the bundle's files hold on disk."""
    return sum(path.stat().st_size for path in folder.iterdir())


def load_bundle(folder: Path) -> Model:
    """The model in `folder`, on the CPU, in eval mode.

    Raises InputError where a file is absent, differs from its digest by as much as a byte, or does not describe a
    network with these weights.
    """
    contents = _checked_contents(folder)
    path = folder / "model.json"
    description = parse_json(contents["model.json"], path)
    try:
        history = _check_description(description)
        network = _skeleton(Architecture.from_dict(description["architecture"]), description)
    except InputError as error:
        raise own_kind(error)(f"{path}: {error}") from error
    except (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path}: the layers make no network") from error
    try:
        tensors = safetensors.torch.load(contents["weights.safetensors"])
    except SafetensorError as error:
        raise InputError(f"{folder / 'weights.safetensors'}: not a safetensors file: {error}") from error
    masks = {name.removeprefix(MASK): tensors.pop(name) for name in list(tensors) if name.startswith(MASK)}
    _fill(network, tensors, folder)
    _check_masks(network, masks, folder)
    return Model(network.eval(), masks, history)


def _read(folder: Path, name: str) -> bytes:
    try:
        return plain(folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"{folder}: not a bundle: {name} cannot be read ({error.strerror})") from error


def _checked_contents(folder: Path) -> dict[str, bytes]:
    """Contents by file name, each equal to its digest."""
    contents = {name: _read(folder, name) for name in ("model.json", "weights.safetensors")}
    expected = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
    found = _read(folder, "SHA256SUMS").decode(errors="replace")
    if found == expected:
        return contents
    wrong = [line.split()[-1] for line in expected.splitlines() if line not in found.splitlines()]
    raise InputError(f"{folder}: {' and '.join(wrong) or 'SHA256SUMS'} altered: digest is not the one in SHA256SUMS")


def _check_description(description: Any) -> tuple[dict[str, Any], ...]:
    """The history. Raises InputError for what is no description of a bundle."""
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise InputError(f"bundle format {shortened(found)}; this version reads {FORMAT}")
    check_keys("bundle", description, ("format", "form", "architecture", "history"), OPTIONAL)
    if description["form"] not in list(Form):
        raise InputError(f"form: expected one of {', '.join(Form)}, got {shortened(description['form'])}")
    if not isinstance(description["history"], list) or not all(isinstance(r, dict) for r in description["history"]):
        raise InputError("history: expected a list of records")
    encoded = [key for key in ("encodings", *READERS) if description.get(key) is not None]
    if len(encoded) > 1:
        raise InputError(f"expected one of {' and '.join(encoded)}")
    return tuple(description["history"])


def _skeleton(architecture: Architecture, description: dict[str, Any]) -> Network:
    """The network without memory for its weights, which come from the file."""
    encodings, between = old_encodings(architecture, description)
    if "encodings" in description:
        encodings = _encodings(description["encodings"])
    if "between" in description:
        between = scales_from_dict("between", description["between"])
    with without_memory():
        return Network(architecture, encodings, between)


def _encodings(data: Any) -> dict[int, Encoding]:
    if not isinstance(data, dict):
        raise InputError(f"encodings: expected an object, got {shortened(data)}")
    found = {}
    for name, entry in data.items():
        number = name.removeprefix("layers.")
        if not (name.startswith("layers.") and number.isdecimal() and len(number) < 10):
            raise InputError(f"encodings: expected names such as layers.3, got {shortened(name)}")
        found[int(number)] = encoding_from_dict(f"encodings: {name}", entry)
    return found


def _fill(network: Network, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        fill(network, tensors)
    except InputError as error:
        raise InputError(f"{folder / 'weights.safetensors'}: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{folder / 'weights.safetensors'}: {name} has a number that is not finite")


def _check_masks(network: nn.Module, masks: dict[str, Tensor], folder: Path) -> None:
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            raise InputError(f"{folder / 'weights.safetensors'}: mask of {name} fits no parameter of the network")
