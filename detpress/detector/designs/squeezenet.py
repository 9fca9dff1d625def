"""SqueezeNet under YOLO heads.

Iandola, Han, Moskewicz, Ashraf, Dally and Keutzer, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
< 0.5 MB model size", arXiv:1602.07360, 2016, version 1.0 up to fire9: 735,424 parameters as published. What differs:
each convolution is padded and has batch normalisation instead of a bias, so that it learns from new weights. The two
modules at stride 32 and the heads, of fire modules too, are of this project; no paper draws them.
"""

from collections.abc import Sequence

from detpress.detector.design import Design
from detpress.detector.designs.yolov3 import Yolov3
from detpress.detector.kinds import Anchors, MaxPool, Route
from detpress.detector.layer import Layer
from detpress.detector.layer_list import LayerList


class SqueezenetYolov3(Design):
    """SqueezeNet 1.0 under heads of three scales made of fire modules."""

    anchors = Yolov3.anchors

    def layers(self, classes: int, anchors: Anchors, image_size: int, width: float) -> Sequence[Layer]:
        net = _Fires(width, "relu")
        net.convolution(96, 7, stride=2)
        net.add(MaxPool(3, 2))
        for squeezed, filters in ((16, 128), (16, 128), (32, 256)):
            net.fire(squeezed, filters)
        net.add(MaxPool(3, 2))
        for squeezed, filters in ((32, 256), (48, 384), (48, 384), (64, 512)):
            stride_8 = net.fire(squeezed, filters)
        net.add(MaxPool(3, 2))
        stride_16 = net.fire(64, 512)
        net.add(MaxPool(3, 2))
        net.fire(64, 512)
        branch = net.fire(64, 512)
        net.head(anchors[6:9], classes)
        net.join(branch, 128, stride_16)
        net.fire(48, 384)
        branch = net.fire(48, 384)
        net.head(anchors[3:6], classes)
        net.join(branch, 64, stride_8)
        net.fire(32, 256)
        net.fire(32, 256)
        net.head(anchors[0:3], classes)
        return net.layers


class _Fires(LayerList):
    def fire(self, squeezed: int, filters: int) -> int:
        """1x1 to `squeezed`; of that, half of the filters by 1x1 and half by 3x3, side by side. Its last layer."""
        squeeze = self.convolution(squeezed, 1)
        narrow = self.convolution(filters // 2, 1)
        self.add(Route((squeeze,)))
        wide = self.convolution(filters // 2, 3)
        return self.add(Route((narrow, wide)))
