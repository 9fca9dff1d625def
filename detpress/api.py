"""What a plugin of another package may rely on, in one import.

Importing it is cheap: what needs PyTorch is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detpress.builtin import find_bundle
from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.contract.tuner import Assessor, Distribution, Judge, Proposals, Space, Tuner
from detpress.detector.design import Design
from detpress.detector.form import Form
from detpress.detector.layer import Channels, FeatureMap, Layer
from detpress.doors import API_VERSION
from detpress.engine_log import engine_messages
from detpress.errors import InputError, StageError
from detpress.options import BundleName, Options
from detpress.training.config import TrainingConfig, TrainingOptions
from detpress.training.image_counts import ImageCounts
from detpress.training.named_objective import NamedObjective

if TYPE_CHECKING:
    from detpress.detector.architecture import Architecture, build_architecture
    from detpress.detector.channels import masks_of_filters
    from detpress.detector.coupling import by_convolution, coupled_convolutions, coupled_filters
    from detpress.detector.encoding import EncodedConvolution, Encoding, UnpackedConvolution
    from detpress.detector.folding import folded_weight
    from detpress.detector.input_scale import InputScale
    from detpress.detector.kinds import (
        AveragePool,
        Convolution,
        Dropout,
        MaxPool,
        Route,
        ScaleChannels,
        Shortcut,
        Upsample,
        Yolo,
    )
    from detpress.detector.layer_list import LayerList
    from detpress.detector.model import Model, apply_masks, new_model
    from detpress.detector.narrowing import narrow, narrowed_network
    from detpress.detector.network import Network, with_encoded
    from detpress.detector.replacement import replace_layer
    from detpress.encodings.bundle import load_bundle, save_bundle
    from detpress.encodings.dynamic_int8 import DynamicInt8
    from detpress.encodings.int8_from_scales import int8_network
    from detpress.encodings.onnx_model import onnx_model
    from detpress.encodings.packed import Packed
    from detpress.training.loss import Targets
    from detpress.training.objective import Objective, Terms, TrainingStart, TrainingStep
    from detpress.training.snapshot import Snapshot
    from detpress.training.teacher import Teacher

__all__ = [
    "API_VERSION",
    "Architecture",
    "Assessor",
    "AveragePool",
    "BundleName",
    "Channels",
    "Convolution",
    "Design",
    "Distribution",
    "Dropout",
    "DynamicInt8",
    "EncodedConvolution",
    "Encoding",
    "FeatureMap",
    "Form",
    "ImageCounts",
    "InputError",
    "InputScale",
    "Judge",
    "Layer",
    "LayerList",
    "MaxPool",
    "Model",
    "NamedObjective",
    "Network",
    "Objective",
    "Options",
    "Packed",
    "Plan",
    "Plugin",
    "Proposals",
    "Route",
    "ScaleChannels",
    "Shortcut",
    "Snapshot",
    "Space",
    "StageError",
    "Targets",
    "Teacher",
    "Terms",
    "TrainingConfig",
    "TrainingOptions",
    "TrainingStart",
    "TrainingStep",
    "Tuner",
    "UnpackedConvolution",
    "Upsample",
    "Workbench",
    "Yolo",
    "apply_masks",
    "build_architecture",
    "by_convolution",
    "coupled_convolutions",
    "coupled_filters",
    "engine_messages",
    "find_bundle",
    "folded_weight",
    "int8_network",
    "load_bundle",
    "masks_of_filters",
    "narrow",
    "narrowed_network",
    "new_model",
    "onnx_model",
    "replace_layer",
    "save_bundle",
    "with_encoded",
]

NEED_TORCH = {
    "Architecture": "detpress.detector.architecture",
    "AveragePool": "detpress.detector.kinds",
    "Convolution": "detpress.detector.kinds",
    "Dropout": "detpress.detector.kinds",
    "DynamicInt8": "detpress.encodings.dynamic_int8",
    "EncodedConvolution": "detpress.detector.encoding",
    "Encoding": "detpress.detector.encoding",
    "InputScale": "detpress.detector.input_scale",
    "LayerList": "detpress.detector.layer_list",
    "MaxPool": "detpress.detector.kinds",
    "Model": "detpress.detector.model",
    "Network": "detpress.detector.network",
    "Objective": "detpress.training.objective",
    "Packed": "detpress.encodings.packed",
    "Route": "detpress.detector.kinds",
    "ScaleChannels": "detpress.detector.kinds",
    "Shortcut": "detpress.detector.kinds",
    "Snapshot": "detpress.training.snapshot",
    "Targets": "detpress.training.loss",
    "Teacher": "detpress.training.teacher",
    "Terms": "detpress.training.objective",
    "TrainingStart": "detpress.training.objective",
    "TrainingStep": "detpress.training.objective",
    "UnpackedConvolution": "detpress.detector.encoding",
    "Upsample": "detpress.detector.kinds",
    "Yolo": "detpress.detector.kinds",
    "apply_masks": "detpress.detector.model",
    "build_architecture": "detpress.detector.architecture",
    "by_convolution": "detpress.detector.coupling",
    "coupled_convolutions": "detpress.detector.coupling",
    "coupled_filters": "detpress.detector.coupling",
    "folded_weight": "detpress.detector.folding",
    "int8_network": "detpress.encodings.int8_from_scales",
    "load_bundle": "detpress.encodings.bundle",
    "masks_of_filters": "detpress.detector.channels",
    "narrow": "detpress.detector.narrowing",
    "narrowed_network": "detpress.detector.narrowing",
    "new_model": "detpress.detector.model",
    "onnx_model": "detpress.encodings.onnx_model",
    "replace_layer": "detpress.detector.replacement",
    "save_bundle": "detpress.encodings.bundle",
    "with_encoded": "detpress.detector.network",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in NEED_TORCH:
        raise AttributeError(f"module 'detpress.api' has no attribute '{name}'")
    return getattr(import_module(NEED_TORCH[name]), name)
