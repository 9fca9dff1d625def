"""YOLO Nano: Wong, Famuori, Shafiee, Li, Chwyl and Chung, "YOLO Nano: a Highly Compact You Only Look Once Convolutional
Neural Network for Object Detection", arXiv:1910.01271, 2019.

The paper draws the network and leaves open by how much its blocks expand. Here they do not (ratio 1), as in
github.com/liux0614/yolo_nano, whose layers these are: with 20 classes 2,890,527 parameters, which is what Salvi and
Barros (IJCNN 2021) give, and 2,031,908,624 multiply-accumulates at 416 pixels. With neither ratio 1 nor 2 it has the
paper's 4.0 MB and 4.57 billion operations.
"""

from collections.abc import Sequence

from detpress.detector.design import Design
from detpress.detector.designs.yolov3 import Yolov3
from detpress.detector.kinds import Anchors, AveragePool, Convolution, ScaleChannels, Shortcut
from detpress.detector.layer import Layer
from detpress.detector.layer_list import LayerList


class YoloNano(Design):
    """YOLO Nano: projections, depthwise convolutions and channel attention, under heads of three scales."""

    anchors = Yolov3.anchors

    def layers(self, classes: int, anchors: Anchors, image_size: int, width: float) -> Sequence[Layer]:
        net = _Nano(width, "relu6")
        net.convolution(12, 3)
        net.convolution(24, 3, stride=2)
        net.project_expand(24, 7, 24)
        net.expand(24, 70, stride=2)
        net.project_expand(70, 25, 70)
        net.project_expand(70, 24, 70)
        net.expand(70, 150, stride=2)
        net.project_expand(150, 56, 150)
        net.convolution(150, 1)
        net.attention(150, reduction=8)
        for projected in (73, 71, 75):
            stride_8 = net.project_expand(150, projected, 150)
        net.expand(150, 325, stride=2)
        for projected in (132, 124, 141, 140, 137, 135, 133, 140):
            stride_16 = net.project_expand(325, projected, 325)
        net.expand(325, 545, stride=2)
        net.project_expand(545, 276, 545)
        net.convolution(230, 1)
        net.expand(230, 489)
        net.project_expand(489, 213, 469)
        branch = net.convolution(189, 1)
        net.expand(189, 462)
        net.head(anchors[6:9], classes)
        net.join(branch, 105, stride_16)
        net.project_expand(105 + 325, 113, 325)
        net.project_expand(325, 99, 207)
        branch = net.convolution(98, 1)
        net.expand(98, 183)
        net.head(anchors[3:6], classes)
        net.join(branch, 47, stride_8)
        net.project_expand(47 + 150, 58, 122)
        net.project_expand(122, 52, 87)
        net.project_expand(87, 47, 93)
        net.head(anchors[0:3], classes)
        return net.layers


class _Nano(LayerList):
    """The paper's blocks. Each gives the number of its last layer."""

    def expand(self, taken: int, filters: int, stride: int = 1) -> int:
        """Expansion-projection (EP): 1x1 with as many filters as channels are taken, depthwise 3x3, linear 1x1."""
        self.convolution(taken, 1)
        self.depthwise(3, stride)
        return self.convolution(filters, 1, activation="linear")

    def project_expand(self, taken: int, projected: int, filters: int) -> int:
        """Projection-expansion-projection (PEP): EP behind a 1x1 with `projected` filters; residual where it can be."""
        before = len(self.layers) - 1
        self.convolution(projected, 1)
        last = self.expand(projected, filters)
        return self.add(Shortcut(before)) if taken == filters else last

    def attention(self, channels: int, reduction: int) -> int:
        """Fully connected attention (FCA), which is squeeze and excitation; without biases."""
        before = len(self.layers) - 1
        own = self.filters(channels)
        self.add(AveragePool())
        self.add(Convolution(max(1, own // reduction), 1, batch_normalize=False, activation="relu6", bias=False))
        self.add(Convolution(own, 1, batch_normalize=False, activation="logistic", bias=False))
        return self.add(ScaleChannels(before))
