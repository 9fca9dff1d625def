"""Layers collected in order, and the parts that published detectors are made of."""

from collections.abc import Sequence

from detpress.detector.kinds import Activation, Anchors, Convolution, MaxPool, Route, Shortcut, Upsample, Yolo
from detpress.detector.layer import Layer


class LayerList:
    """Collects layers in order, scaling the number of filters; indices are those of the finished network.

    activation: of the convolutions that are given no other.
    """

    def __init__(self, width: float, activation: Activation = "leaky") -> None:
        self.layers: list[Layer] = []
        self.width = width
        self.activation = activation

    def add(self, layer: Layer) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def filters(self, filters: float) -> int:
        """So many at the list's width."""
        return max(1, round(filters * self.width))

    def convolution(self, filters: int, size: int, stride: int = 1, activation: Activation | None = None) -> int:
        return self.add(Convolution(self.filters(filters), size, stride, activation=activation or self.activation))

    def depthwise(self, size: int, stride: int = 1) -> int:
        """A filter for each channel that the convolution before it gives."""
        before = self.layers[-1]
        assert isinstance(before, Convolution)
        own = before.filters
        return self.add(Convolution(own, size, stride, activation=self.activation, groups=own))

    def alternate(self, filters: int, times: int) -> int:
        """`times` convolutions, by turns 1x1 with `filters` and 3x3 with twice as many; the last one's index."""
        for i in range(times):
            self.convolution(filters, 1) if i % 2 == 0 else self.convolution(2 * filters, 3)
        return len(self.layers) - 1

    def darknet53(self) -> tuple[int, int]:
        """The backbone; returns the layers where strides 8 and 16 end."""
        self.convolution(32, 3)
        ends = []
        for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
            self.convolution(filters, 3, stride=2)
            for _ in range(blocks):
                before = len(self.layers) - 1
                self.convolution(filters // 2, 1)
                self.convolution(filters, 3)
                self.add(Shortcut(before))
            ends.append(len(self.layers) - 1)
        return ends[2], ends[3]

    def pyramid(self) -> int:
        """Spatial pyramid pooling: the input beside its maxima over 5, 9 and 13 pixels."""
        before = len(self.layers) - 1
        five = self.add(MaxPool(5, 1))
        self.add(Route((before,)))
        nine = self.add(MaxPool(9, 1))
        self.add(Route((before,)))
        thirteen = self.add(MaxPool(13, 1))
        return self.add(Route((thirteen, nine, five, before)))

    def head(self, anchors: Anchors, classes: int) -> None:
        self.add(
            Convolution(len(anchors) * (5 + classes), 1, batch_normalize=False, activation="linear"),
        )
        self.add(Yolo(tuple(anchors)))

    def yolov3_heads(
        self,
        stride_8: int,
        stride_16: int,
        anchors: Sequence[Anchors],
        classes: int,
        widths: Sequence[float] | None = None,
        pyramid: bool = False,
    ) -> None:
        """YOLOv3's heads of three scales behind a backbone, whose maps of strides 8 and 16 are given by these layers.

        anchors: those of each scale, and widths: factors on the filters of each, the list's own by default; coarse to
        fine. pyramid: with spatial pyramid pooling at the coarsest scale.
        """
        coarse, middle, fine = widths or [self.width] * 3
        self.width = coarse
        if pyramid:
            self.alternate(512, 3)
            self.pyramid()
        branch = self.alternate(512, 3 if pyramid else 5)
        self.convolution(1024, 3)
        self.head(anchors[0], classes)
        self.width = middle
        self.join(branch, 256, stride_16)
        branch = self.alternate(256, 5)
        self.convolution(512, 3)
        self.head(anchors[1], classes)
        self.width = fine
        self.join(branch, 128, stride_8)
        self.alternate(128, 6)
        self.head(anchors[2], classes)

    def join(self, source: int, filters: int, with_layer: int) -> None:
        """Goes up one scale: from `source` through a 1x1 convolution, doubled in size, beside `with_layer`."""
        self.add(Route((source,)))
        self.convolution(filters, 1)
        up = self.add(Upsample())
        self.add(Route((up, with_layer)))
