"""The built-in kinds of layers."""

from detpress.detector.kinds.convolution import Activation, Convolution
from detpress.detector.kinds.joining import Route, Shortcut
from detpress.detector.kinds.resizing import MaxPool, Upsample
from detpress.detector.kinds.yolo import Anchors, Yolo

__all__ = ["Activation", "Anchors", "Convolution", "MaxPool", "Route", "Shortcut", "Upsample", "Yolo"]
