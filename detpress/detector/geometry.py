"""How a convolution moves over its input."""

from typing import Any, NamedTuple

from torch import nn


class Geometry(NamedTuple):
    """In pixels, (height, width)."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, convolution: nn.Conv2d) -> "Geometry":
        padding = convolution.padding
        assert isinstance(padding, tuple)
        size, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
        return cls(
            (size[0], size[1]),
            (stride[0], stride[1]),
            (padding[0], padding[1]),
            convolution.groups,
            (dilation[0], dilation[1]),
        )

    def in_onnx(self) -> dict[str, Any]:
        """The attributes of ONNX's convolutions."""
        pads = [*self.padding, *self.padding]
        how = {"kernel_shape": self.kernel_size, "strides": self.stride, "pads": pads, "group": self.groups}
        return how if self.dilation == (1, 1) else how | {"dilations": self.dilation}
