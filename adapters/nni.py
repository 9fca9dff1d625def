"""The bridge to Microsoft NNI 3.0: its pruners give masks, its speedup takes the masked filters out.

How NNI is brought to work on the shared detector (it is archived, so this will stay):

- its own tracer fails on current PyTorch; speedup is given a graph traced by torch.fx;
- speedup infers masks by running the network; 64 pixels and 2 images give the same masks as the real size and take
  5 seconds and 2.4 GB for the full YOLOv3 instead of 95 and 18.5;
- a masked filter's BatchNorm would still add its shift, so its scale and shift are masked, too;
- what comes back is a network of wrappers and traced modules; widths and tensors are read off it into a new network.
"""

import copy
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.channels import coupled_convolutions
from detpress.detector.network import Network
from detpress.engine_log import engine_messages

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    from nni.compression.pruning import FPGMPruner, L1NormPruner, L2NormPruner
    from nni.compression.speedup import ModelSpeedup

PRUNERS = {"l1norm": L1NormPruner, "l2norm": L2NormPruner, "fpgm": FPGMPruner}
SPEEDUP_PIXELS = 64
SPEEDUP_IMAGES = 2


def filter_masks(
    network: nn.Module,
    architecture: Architecture,
    pruner: str,
    removed: Mapping[int, int],
    log: logging.Logger,
) -> dict[str, Tensor]:
    """Masks of the convolutions and their BatchNorms, chosen by one of NNI's pruners; `network` is left as it was.

    removed: convolution's layer number -> filters to mask. Coupled convolutions have equal numbers and are masked
    alike: NNI adds up what each of them thinks of a channel.
    Returns parameter name -> bool tensor of the parameter's shape, for all layers in `removed`.
    """
    layers = architecture.layers
    config = []
    for group, members in enumerate(coupled_convolutions(architecture)):
        chosen = [i for i in members if i in removed]
        if chosen:
            filters = layers[chosen[0]].filters  # type: ignore[union-attr]
            share = (removed[chosen[0]] + 0.5) / filters  # NNI truncates share * filters
            names = [convolution_name(i) for i in chosen]
            config.append({"op_names": names, "sparse_ratio": share, "dependency_group_id": f"group{group}"})
    with engine_messages(log, "nni"):
        engine = PRUNERS[pruner](copy.deepcopy(network), config)
        _, found = engine.compress()
    masks: dict[str, Tensor] = {}
    for i in removed:
        kept = found[convolution_name(i)]["weight"].flatten(1).any(dim=1).cpu()
        masks |= masks_of_filters(network, i, kept)
    return masks


def masks_of_filters(network: nn.Module, layer: int, kept: Tensor) -> dict[str, Tensor]:
    """kept: bool (filters,). Masks of all the parameters that make up these filters of a convolution."""
    parameters = dict(network.named_parameters())
    names = [f"layers.{layer}.{part}" for part in ("convolution.weight", "convolution.bias", "norm.weight", "norm.bias")]
    return {
        name: kept.view(-1, *[1] * (parameters[name].ndim - 1)).expand_as(parameters[name]).clone()
        for name in names
        if name in parameters
    }


def speed_up(network: nn.Module, architecture: Architecture, masks: Mapping[str, Tensor], log: logging.Logger) -> Network:
    """A smaller network that gives the same maps: masked filters are taken out wherever nothing else needs them.

    network: with its masked weights at zero; left as it was.
    """
    traced_from = copy.deepcopy(network).eval()
    conv_masks = {
        name.removesuffix(".weight"): {"weight": mask.float()}
        for name, mask in masks.items()
        if name.endswith(".convolution.weight")
    }
    images = torch.rand(SPEEDUP_IMAGES, 3, SPEEDUP_PIXELS, SPEEDUP_PIXELS, generator=torch.Generator().manual_seed(0))
    with engine_messages(log, "nni"):
        speedup = ModelSpeedup(
            traced_from,
            images,
            conv_masks,
            batch_size=SPEEDUP_IMAGES,
            graph_module=torch.fx.symbolic_trace(traced_from),
            logger=log,
        )
        speedup.speedup_model()
    return _rebuilt(traced_from, architecture)


def _rebuilt(smaller: nn.Module, architecture: Architecture) -> Network:
    """A network of the shared kind with the widths and the tensors of what NNI left."""
    layers = tuple(
        replace(layer, filters=smaller.get_submodule(convolution_name(i)).weight.shape[0])  # type: ignore[arg-type]
        if isinstance(layer, Convolution)
        else layer
        for i, layer in enumerate(architecture.layers)
    )
    network = Network(replace(architecture, layers=layers))
    tensors = smaller.state_dict()
    network.load_state_dict({name: tensors[name].detach().clone() for name in network.state_dict()})
    return network.eval()


def convolution_name(layer: int) -> str:
    return f"layers.{layer}.convolution"
