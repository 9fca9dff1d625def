"""YOLOv3-tiny, its 3 x 3 convolutions a quarter as wide, with four biases for each map that they give.

The layer is Li, Ouyang, Wang's (arXiv:1604.00676, 2016); no paper has this detector.
"""

from collections.abc import Sequence

from detpress.detector.design import Design
from detpress.detector.designs.yolov3_tiny import Yolov3Tiny
from detpress.detector.kinds import Anchors, Convolution, MaxPool, MultiBias
from detpress.detector.layer import Layer
from detpress.detector.layer_list import LayerList

BIASES = 4


class MultiBiasTiny(Design):
    """YOLOv3-tiny, where a 3 x 3 convolution has a quarter of the filters, BatchNorm, ReLU, four biases and a ReLU."""

    anchors = Yolov3Tiny.anchors

    def layers(self, classes: int, anchors: Anchors, image_size: int, width: float) -> Sequence[Layer]:
        net = LayerList(width)
        ends = []
        for filters in (16, 32, 64, 128, 256, 512):
            ends.append(self.block(net, filters))
            net.add(MaxPool(2, 1 if filters == 512 else 2))
        self.block(net, 1024)
        branch = net.convolution(256, 1)
        self.block(net, 512)
        net.head(anchors[3:6], classes)
        net.join(branch, 128, ends[4])
        self.block(net, 256)
        net.head(anchors[0:3], classes)
        return net.layers

    def block(self, net: LayerList, filters: int) -> int:
        """Gives so many channels, at the list's width; the last layer's index."""
        net.add(Convolution(net.filters(filters / BIASES), 3, activation="relu"))
        return net.add(MultiBias(BIASES, "wide", shared=False, batch_normalize=False, activation="relu"))


class MultiBiasTinyStudy(MultiBiasTiny):
    """The same with the layer as Salvi and Barros's code has it: four biases for all maps, BatchNorm behind them."""

    def block(self, net: LayerList, filters: int) -> int:
        own = net.filters(filters / BIASES)
        net.add(Convolution(own, 3, batch_normalize=False, activation="linear", bias=False))
        return net.add(MultiBias(BIASES, "normal", shared=True, batch_normalize=True, activation="leaky"))
