"""The built-in kinds of layers."""

from detpress.detector.kinds.activation import Activation
from detpress.detector.kinds.contrastive import Contrastive
from detpress.detector.kinds.convolution import Convolution
from detpress.detector.kinds.dropout import Dropout
from detpress.detector.kinds.joining import Route, Sam, ScaleChannels, Shortcut
from detpress.detector.kinds.multi_bias import MultiBias
from detpress.detector.kinds.resizing import AveragePool, LocalAveragePool, MaxPool, Reorg, Upsample
from detpress.detector.kinds.yolo import Anchors, Yolo

__all__ = [
    "Activation",
    "Anchors",
    "AveragePool",
    "Contrastive",
    "Convolution",
    "Dropout",
    "LocalAveragePool",
    "MaxPool",
    "MultiBias",
    "Reorg",
    "Route",
    "Sam",
    "ScaleChannels",
    "Shortcut",
    "Upsample",
    "Yolo",
]
