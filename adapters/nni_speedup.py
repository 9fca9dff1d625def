"""The bridge to NNI's speedup: the network without its masked filters.

How NNI is brought to work on the shared detector (it is archived, so this will stay):

- its own tracer fails on current PyTorch; speedup is given a graph traced by torch.fx;
- speedup infers masks by running the network on random numbers; 64 pixels and 2 images find the same masks as the
  real size in a small part of its time and memory (`benchmarks/speedup.py`);
- what comes back is a network of wrappers and traced modules; widths and tensors are read off it into a new network;
- a channel that is zero for all those numbers is masked for it, though nobody masked it: behind a ReLU such channels
  are common, more would be taken out than was asked for, and where all of a map's are zero it fails. Networks with
  activations that give zero for a range of inputs are narrowed by the layer list instead.
"""

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from detpress.detector.architecture import Architecture
from detpress.detector.channels import kept_filters
from detpress.detector.kinds import (
    Activation,
    AveragePool,
    Contrastive,
    Convolution,
    Dropout,
    MaxPool,
    MultiBias,
    Route,
    ScaleChannels,
    Shortcut,
    Upsample,
    Yolo,
)
from detpress.detector.layer import FeatureMap, Layer
from detpress.detector.narrowing import narrow, narrowed_network
from detpress.detector.network import Network, convolution_name
from detpress.engine_log import engine_messages

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    from nni.compression.speedup import ModelSpeedup

SPEEDUP_PIXELS = 64
SPEEDUP_IMAGES = 2
FLAT_AT_ZERO = ("relu", "relu6", "hard_swish")  # activations
KNOWN = (Activation, AveragePool, Contrastive, Dropout, MaxPool, MultiBias, ScaleChannels, Upsample, Yolo)  # to NNI


def speed_up(
    network: nn.Module, architecture: Architecture, masks: Mapping[str, Tensor], log: logging.Logger
) -> Network:
    """A smaller network that gives the same maps: masked filters are taken out wherever nothing else needs them.

    network: with its masked weights at zero; left as it was.
    masks: parameter name -> bool tensor of the parameter's shape. What `kept_filters` keeps stays.
    """
    smaller = copy.deepcopy(network).eval()
    kept = kept_filters(architecture, masks)
    conv_masks = {convolution_name(i): {"weight": masks[f"{convolution_name(i)}.weight"].float()} for i in kept}
    if not conv_masks:  # NNI would fail
        return narrowed_network(smaller, architecture)
    activations = {layer.activation for layer in architecture.layers if isinstance(layer, Convolution)}
    if isinstance(smaller, Network) and activations.intersection(FLAT_AT_ZERO):
        log.info("narrowed by the layer list: NNI takes channels that a ReLU makes zero for masked ones")
        return narrow(smaller, kept)
    if isinstance(smaller, Network) and any(map(_is_new_to_nni, architecture.layers, architecture.taken_maps)):
        log.info("narrowed by the layer list: NNI does not know some of the layers")
        return narrow(smaller, kept)
    with engine_messages(log, "nni"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ModelSpeedup(
            smaller,
            torch.rand(SPEEDUP_IMAGES, 3, SPEEDUP_PIXELS, SPEEDUP_PIXELS),
            conv_masks,
            batch_size=SPEEDUP_IMAGES,
            graph_module=torch.fx.symbolic_trace(smaller),
            logger=log,
        ).speedup_model()
    return narrowed_network(smaller, architecture)


def _is_new_to_nni(layer: Layer, taken: Sequence[FeatureMap]) -> bool:
    match layer:
        case Shortcut():
            return layer.activation != "linear" or len({each.channels for each in taken}) > 1
        case Route():
            return not layer.whole
        case Convolution():
            return layer.activation == "mish" or layer.dilation > 1 or 1 < layer.groups < layer.filters
        case _:
            return type(layer) not in KNOWN
