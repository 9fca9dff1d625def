"""YOLOv3, and the variant with spatial pyramid pooling.

Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv:1804.02767, 2018, and the files `yolov3.cfg` and
`yolov3-spp.cfg` published with it.
"""

from collections.abc import Sequence
from typing import ClassVar

from detpress.detector.design import Design
from detpress.detector.kinds import Anchors
from detpress.detector.layer import Layer
from detpress.detector.layer_list import LayerList


class Yolov3(Design):
    """YOLOv3: Darknet-53 under heads of three scales."""

    # Published with it: k-means on COCO.
    anchors = (
        (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
    )  # fmt: skip
    pyramid: ClassVar[bool] = False

    def layers(self, classes: int, anchors: Anchors, image_size: int, width: float) -> Sequence[Layer]:
        net = LayerList(width)
        stride_8, stride_16 = net.darknet53()
        scales = (anchors[6:9], anchors[3:6], anchors[0:3])
        net.yolov3_heads(stride_8, stride_16, scales, classes, pyramid=self.pyramid)
        return net.layers


class Yolov3Spp(Yolov3):
    """YOLOv3 with spatial pyramid pooling before the coarsest head."""

    pyramid = True
