"""The built-in kinds of layers."""

from detpress.detector.kinds.convolution import Activation, Convolution
from detpress.detector.kinds.dropout import Dropout
from detpress.detector.kinds.joining import Route, ScaleChannels, Shortcut
from detpress.detector.kinds.resizing import AveragePool, MaxPool, Upsample
from detpress.detector.kinds.yolo import Anchors, Yolo

__all__ = [
    "Activation",
    "Anchors",
    "AveragePool",
    "Convolution",
    "Dropout",
    "MaxPool",
    "Route",
    "ScaleChannels",
    "Shortcut",
    "Upsample",
    "Yolo",
]
