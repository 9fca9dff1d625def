"""PyTorch checkpoints of other programs' YOLOv3: a state dict, matched to a network by order and shape.

Every program has names of its own for the same convolutions:

    eriklindernoren/PyTorch-YOLOv3      module_list.0.conv_0.weight    module_list.0.batch_norm_0.running_var
    ultralytics/yolov3, archive         module_list.0.Conv2d.weight    module_list.0.BatchNorm2d.running_var
    ultralytics/yolov3, from v9 on      model.0.conv.weight            model.0.bn.running_var

so names are not asked what they are of. A convolution is a weight of four dimensions, in the order of the file; it has
the bias beside it, or the normalisation that comes next. The first two have the order of Darknet's layers; the third
has the convolutions of its heads at the end, from the finest to the coarsest. Where the names are in the order of the
alphabet, as in every safetensors file, the numbers in them are the order.

Only tensors are read: PyTorch's loader of plain data (`weights_only`) calls no code that a file names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Resize, build_architecture
from detpress.detector.darknet import KEPT_KEY
from detpress.detector.darknet_cfg import read_description
from detpress.detector.design import find_design
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model, new_model
from detpress.detector.new_heads import BOX_AND_OBJECTNESS
from detpress.errors import InputError, cut_short
from detpress.files.plain import plain

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
OURS = 1e-5  # what is added to a variance by default in PyTorch, and in detpress always
NESTED = (  # under which names programs keep a state dict; of several, the first is read
    "ema", "ema_state_dict", "state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "module",
)  # fmt: skip
BUFFERS = re.compile(r".*(num_batches_tracked|n_averaged|anchor|grid|stride).*")  # tensors that are no weights
WITHOUT_ANCHORS = re.compile(r"(.*\.)?dfl\.conv\.weight")  # sums up distances to a box's edges, each of 16 shares
NORM = dict.fromkeys(("weight", "bias", "running_mean", "running_var")).keys()  # of a batch normalisation


@dataclass(frozen=True)
class Program:
    """What must be known of whoever trained, and is in no state dict.

    norm: a pattern of the names of its normalisations; added: what it adds to a variance; remark: what else differs.
    """

    norm: re.Pattern[str]
    added: float
    remark: str = ""


PROGRAMS = (
    Program(re.compile(r"(.*\.)?module_list\.\d+\.BatchNorm2d"), 1e-4),
    Program(
        re.compile(r"(module\.)?model\.\d+\.(.+\.)?bn"),
        1e-3,
        "names as in Ultralytics' yolov3 from v9 on, whose boxes are those of `scale_x_y=2`, `new_coords=1`, whose "
        "activations are swish from v9.6 on, and whose pyramid pooling has its maps in the order layers=-6,-5,-3,-1: "
        "expected a cfg that says so",
    ),
)


@dataclass(frozen=True)
class Found:
    """A convolution of a state dict.

    bias, norm: tensors, where it has them; the normalisation's by their names in it. norm_name: of its module.
    """

    name: str
    weight: Tensor
    bias: Tensor | None = None
    norm: Mapping[str, Tensor] | None = None
    norm_name: str = ""


def import_checkpoint(network: str, checkpoint: Path, classes: list[str], resize: Resize | None = None) -> Model:
    """The network of a cfg file, or of an architecture's name at the size of its anchors, with a state dict's weights.

    The history tells where it is from, and what the cfg has for Darknet's training. resize: instead of what the cfg
    says.
    Raises InputError as `read_description` and `read_checkpoint` do, and for an unknown name.
    """
    kept: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()
    if network.endswith(".cfg"):
        said = read_description(Path(network), classes, resize=resize)
        architecture, kept, notes = said.architecture, said.kept, said.notes
    else:
        design = find_design(network)
        architecture = build_architecture(network, classes, design.anchors_at, resize=resize or "letterbox")
    model = read_checkpoint(checkpoint, architecture)
    files = {"network": Path(network).name, "weights": checkpoint.name}
    record = {"plugin": "import", "config": files} | ({KEPT_KEY: kept} if kept else {})
    return replace(model, history=(record,), notes=(*notes, *model.notes))


def read_checkpoint(path: Path, architecture: Architecture) -> Model:
    """A model of `architecture` with the weights of a state dict; its notes say how they were found.

    Raises InputError for a file that is none or needs code to be read, and for the first layer that does not fit.
    """
    state, place = _state_dict(path)
    found = _convolutions(path, state)
    layers, how = _matched(path, architecture, found)
    program = next((known for known in PROGRAMS if known.norm.fullmatch(found[0].norm_name)), None)
    moved = program.added - OURS if program else 0.0
    tensors: dict[str, Tensor] = {}
    for layer, convolution in zip(layers, found, strict=True):
        tensors |= _tensors(path, f"layers.{layer}", convolution, moved)
    model = new_model(architecture, seed=0)
    model.network.load_state_dict(tensors, strict=False)  # all but the counts of batches
    notes = [f"{place}: {len(found)} convolutions matched by order and shape{how}"]
    if program:
        notes.append(
            f"by its names, its program adds {program.added:g} to variances where detpress adds {OURS:g}: the "
            "difference was added to them"
        )
        notes += [program.remark] if program.remark else []
    return replace(model, notes=tuple(notes))


def _state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors by name, in the order of the modules; and where in the file they are, for people."""
    try:
        plain(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".safetensors":
        return _by_numbers(_safetensors(path)), "safetensors"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a spoilt file raises anything
        if re.search(r"unsupported (global|class)|torchscript", str(error), re.IGNORECASE):
            raise InputError(
                f"{path}: holds objects of the program that wrote it, which would have to run; expected a state dict, "
                'saved there: found = torch.load(FILE, weights_only=False)["model"]; torch.save(found, "plain.pt"); '
                'or, where that is a module, torch.save(found.float().state_dict(), "plain.pt")'
            ) from error
        raise InputError(
            f"{path}: not a checkpoint of PyTorch, or only a part of one ({type(error).__name__})"
        ) from error
    names = ["state dict"]
    while isinstance(found, Mapping) and not _are_tensors(found):
        inner = next((name for name in NESTED if isinstance(found.get(name), Mapping)), None)
        if inner is None:
            break
        found = found[inner]
        names.append(f"'{inner}'")
    if not _are_tensors(found):
        raise InputError(f"{path}: has no state dict, tensors by name, by itself or as one of {', '.join(NESTED)}")
    state = dict(found)
    return _by_numbers(state) if list(state) == sorted(state) else state, " ".join(names)


def _are_tensors(found: Any) -> bool:
    return (
        isinstance(found, Mapping)
        and len(found) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items())
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        found: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a safetensors file: {cut_short(str(error))}") from error
    return found


def _by_numbers(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the order of the modules, of names that are in the order of the alphabet."""

    def place(name: str) -> tuple[object, ...]:
        """By the numbers in the names of the modules that hold it; a convolution is before its normalisation."""
        module, _, part = name.rpartition(".")
        holder, _, own = module.rpartition(".")
        words = [int(word) if i % 2 else word for i, word in enumerate(re.split(r"(\d+)", holder))]
        numbers = [int(number) for number in re.findall(r"\d+", own)]
        return words, numbers, f"{module}.running_mean" in found, own, part

    return {name: found[name] for name in sorted(found, key=place)}


def _convolutions(path: Path, state: Mapping[str, Tensor]) -> list[Found]:
    """Raises InputError for a tensor that belongs to none."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if WITHOUT_ANCHORS.fullmatch(name):
            raise InputError(
                f"{path}: {cut_short(name)}: heads without anchors, as those of YOLOv3u and YOLOv8; expected a yolo "
                "layer's, such as YOLOv3's"
            )
        module, _, part = name.rpartition(".")
        if not BUFFERS.fullmatch(name):
            modules.setdefault(module, {})[part] = tensor
    found: list[Found] = []
    for name, parts in modules.items():
        if parts.keys() in ({"weight"}, {"weight", "bias"}) and parts["weight"].dim() == 4:
            found.append(Found(name, parts["weight"], parts.get("bias")))
        elif parts.keys() == NORM and found and found[-1].norm is None:
            found[-1] = replace(found[-1], norm=parts, norm_name=name)
        else:
            part, tensor = next(iter(parts.items()))
            missing = [part for part in NORM if part not in parts] if parts.keys() < NORM else []
            raise InputError(
                f"{path}: {cut_short(f'{name}.{part}')} {tuple(tensor.shape)}: expected a convolution's weights, of "
                "four dimensions, or the batch normalisation of the convolution before it, in the order of the network"
                + (f"; {cut_short(name)} has no {', '.join(missing)}" if missing else "")
            )
    if not found:
        raise InputError(f"{path}: has no convolution, a weight of four dimensions")
    return found


def _matched(path: Path, architecture: Architecture, found: Sequence[Found]) -> tuple[list[int], str]:
    """The number of the layer that each convolution is, and what is to be said of their order.

    Raises InputError with the first layer that does not fit, in the order in which most do.
    """
    expected = {
        i: (layer, layer.weight_shape(taken[0].channels))
        for i, (layer, taken) in enumerate(zip(architecture.layers, architecture.taken_maps, strict=True))
        if isinstance(layer, Convolution)
    }
    anchors = {i: len(yolo.anchors) for i, yolo in zip(architecture.heads, architecture.yolo_layers, strict=True)}
    strides = dict(zip(architecture.heads, architecture.strides, strict=True))
    at_the_end = [i for i in expected if i not in strides] + sorted(strides, key=lambda i: strides[i])
    orders = {"": list(expected), ", those of the heads at the end, from fine to coarse": at_the_end}
    furthest, message = -1, ""
    for how, layers in orders.items():
        problems = [
            _problem(i, expected[i], anchors.get(i), convolution) for i, convolution in zip(layers, found, strict=False)
        ]
        fitting = next((i for i, problem in enumerate(problems) if problem), len(problems))
        if fitting == len(layers) == len(found):
            return layers, how
        if fitting > furthest:
            furthest, message = fitting, next(filter(None, problems), "")
    if message:
        raise InputError(f"{path}: {message}; the first that does not fit {architecture.name}")
    if len(found) > len(expected):
        name = cut_short(found[len(expected)].name)
        raise InputError(f"{path}: goes on with {name}; {architecture.name} has {len(expected)} convolutions")
    missing = list(expected)[len(found)]
    raise InputError(f"{path}: ends after {len(found)} convolutions; {architecture.name} has layers.{missing}, too")


def _problem(i: int, expected: tuple[Convolution, tuple[int, ...]], anchors: int | None, found: Found) -> str | None:
    """Why it is not layer `i`; expected: the layer, and the shape of its weights. anchors: of a head, how many."""
    layer, shape = expected
    name, given = cut_short(found.name), tuple(found.weight.shape)
    if given != shape:
        of_classes = ""
        if anchors and given[1:] == shape[1:] and given[0] % anchors == 0 and given[0] > anchors * BOX_AND_OBJECTNESS:
            ours, theirs = (filters // anchors - BOX_AND_OBJECTNESS for filters in (shape[0], given[0]))
            of_classes = f": the head of {ours} classes, and of {theirs}"
        return f"layers.{i} has weights {shape}, but {name} {given}{of_classes}"
    parts = [part for part in (found.bias, *(found.norm or {}).values()) if part is not None]
    wrong = next((part for part in parts if part.shape != (layer.filters,)), None)
    if wrong is not None:
        return (
            f"layers.{i} has {layer.filters} filters, but {name} a tensor {tuple(wrong.shape)} of one number a filter"
        )
    if layer.batch_normalize != (found.norm is not None):
        kinds = ("no batch normalisation", "batch normalisation")
        return f"layers.{i} has {kinds[layer.batch_normalize]}, but {name} {kinds[found.norm is not None]}"
    if not layer.batch_normalize and layer.bias != (found.bias is not None):
        return f"layers.{i} has {'a' if layer.bias else 'no'} bias, but {name} {'none' if layer.bias else 'one'}"
    return None


def _tensors(path: Path, layer: str, found: Found, moved: float) -> dict[str, Tensor]:
    """What the network's state has of it. moved: added to variances. Raises InputError for what is no finite number."""
    tensors = {"convolution.weight": found.weight}
    if found.norm is not None:
        tensors |= {f"norm.{part}": tensor for part, tensor in found.norm.items()}
        if found.bias is not None:  # before the normalisation, which takes the mean off
            tensors["norm.running_mean"] = found.norm["running_mean"].float() - found.bias.float()
        tensors["norm.running_var"] = found.norm["running_var"].float() + moved
    elif found.bias is not None:
        tensors["convolution.bias"] = found.bias
    for part, tensor in tensors.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise InputError(f"{path}: {cut_short(found.name)}: {part} is not all finite floating-point numbers")
    if found.norm is not None and bool((tensors["norm.running_var"] < 0).any()):
        raise InputError(f"{path}: {cut_short(found.norm_name)}.running_var: expected variances, some are below 0")
    return {f"{layer}.{part}": tensor.float() for part, tensor in tensors.items()}
