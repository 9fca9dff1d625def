"""Numbers of 8 bits in an int8 network: what a tensor is rounded to before an operator takes it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detpress.errors import InputError

MIDDLE = 127  # the zero point of a symmetric scale, as INC has it


@dataclass(frozen=True)
class InputScale:
    """How an operator's input is rounded: uint8 q stands for (q - zero_point) * scale."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.zero_point <= 255):
            raise InputError(f"no scale of 8-bit numbers: {self}")

    @classmethod
    def of_range(cls, low: float, high: float, symmetric: bool = False) -> "InputScale":
        """The finest scale that holds 0 exactly and everything from `low` to `high`; symmetric: 0 is in the middle."""
        low, high = min(low, 0.0), max(high, 0.0)
        if symmetric:
            return cls(2 * max(-low, high) / 255 or 1.0, MIDDLE)
        scale = (high - low) / 255 or 1.0
        return cls(scale, round(-low / scale))

    def rounded(self, x: Tensor) -> Tensor:
        """float32 of any shape -> its nearest values that 8 bits can hold, as float32."""
        # Registers torch.ops.quantized_decomposed; here, because what runs in another runtime shall do without.
        from torch.ao.quantization.fx import _decomposed  # noqa: F401

        q = torch.ops.quantized_decomposed
        x = q.quantize_per_tensor(x, self.scale, self.zero_point, 0, 255, torch.uint8)
        found: Tensor = q.dequantize_per_tensor(x, self.scale, self.zero_point, 0, 255, torch.uint8)
        return found
