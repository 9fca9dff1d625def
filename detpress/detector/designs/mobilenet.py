"""MobileNet under YOLOv3's heads.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto and Adam, "MobileNets: Efficient Convolutional Neural Networks
for Mobile Vision Applications", arXiv:1704.04861, 2017, up to its last map: 3,206,976 parameters as published. In the
heads each 3x3 convolution of YOLOv3's is depthwise separable, too.
"""

from collections.abc import Sequence

from detpress.detector.design import Design
from detpress.detector.designs.yolov3 import Yolov3
from detpress.detector.kinds import Activation, Anchors, Convolution
from detpress.detector.layer import Layer
from detpress.detector.layer_list import LayerList


class MobileYolov3(Design):
    """MobileNet under YOLOv3's heads, all of depthwise separable convolutions."""

    anchors = Yolov3.anchors

    def layers(self, classes: int, anchors: Anchors, image_size: int, width: float) -> Sequence[Layer]:
        net = _Separable(width, "relu")
        net.add(Convolution(net.filters(32), 3, stride=2, activation="relu"))
        net.convolution(64, 3)
        net.convolution(128, 3, stride=2)
        net.convolution(128, 3)
        net.convolution(256, 3, stride=2)
        stride_8 = net.convolution(256, 3)
        net.convolution(512, 3, stride=2)
        for _ in range(5):
            stride_16 = net.convolution(512, 3)
        net.convolution(1024, 3, stride=2)
        net.convolution(1024, 3)
        net.yolov3_heads(stride_8, stride_16, (anchors[6:9], anchors[3:6], anchors[0:3]), classes)
        return net.layers


class _Separable(LayerList):
    def convolution(self, filters: int, size: int, stride: int = 1, activation: Activation | None = None) -> int:
        """A larger one than 1x1 is a filter for each channel of the convolution before it, and a 1x1 behind that."""
        if size > 1:
            self.depthwise(size, stride)
        return super().convolution(filters, 1, activation=activation)
