"""YOLOv3-tiny: the file `yolov3-tiny.cfg` published with Redmon and Farhadi, "YOLOv3", arXiv:1804.02767, 2018."""

from collections.abc import Sequence

from detpress.detector.design import Design
from detpress.detector.kinds import Anchors, MaxPool
from detpress.detector.layer import Layer
from detpress.detector.layer_list import LayerList


class Yolov3Tiny(Design):
    """YOLOv3-tiny: seven convolutions with pooling between them, under heads of two scales."""

    anchors = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))

    def layers(self, classes: int, anchors: Anchors, image_size: int, width: float) -> Sequence[Layer]:
        net = LayerList(width)
        convolutions = []
        for filters in (16, 32, 64, 128, 256, 512):
            convolutions.append(net.convolution(filters, 3))
            net.add(MaxPool(2, 1 if filters == 512 else 2))
        stride_16 = convolutions[4]
        net.convolution(1024, 3)
        branch = net.convolution(256, 1)
        net.convolution(512, 3)
        net.head(anchors[3:6], classes)
        net.join(branch, 128, stride_16)
        net.convolution(256, 3)
        net.head(anchors[0:3], classes)
        return net.layers
