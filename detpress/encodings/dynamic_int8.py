"""8 bits with scales taken from the numbers at hand, instead of from calibration images.

The weights are int8, as `Int8` has them. The input is rounded by the smallest and the largest value that it holds in
this run:

    scale = (max - min) / 255, zero = round(-min / scale)        min at most 0, max at least 0

so a raw map depends, by its rounding, on what else is in the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from detpress.detector.encoding import EncodedConvolution, Encoding, Precision, geometry
from detpress.encodings.int8 import int8_tensors

if TYPE_CHECKING:
    from detpress.detector.onnx_graph import Graph


@dataclass(frozen=True)
class DynamicInt8(Encoding):
    """8 bits a weight, computed in integers on an input that is rounded by its own range, in every run anew.

    weight: int8 (F, I, k, k); weight_scale: float32 (F,); bias: float32 (F,).
    """

    simulated = True
    stored_bits = 8
    precision: ClassVar[Precision] = "int8"
    rounds_input = True

    def module(self, like: nn.Conv2d) -> EncodedConvolution:
        return EncodedConvolution(self, like, int8_tensors(like))

    def weight(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        return tensors["weight"].float() * tensors["weight_scale"][:, None, None, None]

    def rounded(self, x: Tensor) -> Tensor:
        return rounded(x)

    def to_onnx(self, graph: "Graph", x: str, name: str, convolution: EncodedConvolution | nn.Conv2d) -> str:
        """ONNX has operators of its own for this; the same numbers.

        DynamicQuantizeLinear  ConvInteger  Cast to float  Mul by both scales  Add the bias
        """
        tensors = {key: tensor.numpy() for key, tensor in convolution.state_dict().items()}
        weight = graph.constant(f"{name}.weight", tensors["weight"])
        scales = graph.constant(f"{name}.weight_scale", tensors["weight_scale"].reshape(-1, 1, 1))
        bias = graph.constant(f"{name}.bias", tensors["bias"].reshape(-1, 1, 1))
        codes, scale, zero = graph.rounded_dynamically(x, f"{name}.input")
        sums = graph.add("ConvInteger", [codes, weight, zero], f"{name}.sums", **geometry(convolution).in_onnx())
        sums = graph.to_float(sums, f"{name}.sums.float")
        both = graph.add("Mul", [scale, scales], f"{name}.scale")
        return graph.add("Add", [graph.add("Mul", [sums, both], f"{name}.product"), bias], name)


def rounded(x: Tensor) -> Tensor:
    """float32 of any shape -> the nearest of 256 values that lie evenly over its range, zero among them."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = torch.round(-low / scale).clamp(0, 255)
    return ((torch.round(x * (1 / scale)) + zero).clamp(0, 255) - zero) * scale
