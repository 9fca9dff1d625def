"""NNI 3.0's quantizers by name, three of them nearer to their papers than NNI has them.

- LSQ and LSQ+ begin at the values of their papers; NNI begins at 0.01 for every tensor.
- DoReFa as NNI has it measures the range of a convolution's input for every batch anew, also when it is evaluated.
  Here the ranges of the calibration images stay.
"""

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    from nni.compression.quantization import (
        BNNQuantizer,
        DoReFaQuantizer,
        LsqPlusQuantizer,
        LsqQuantizer,
        PtqQuantizer,
        QATQuantizer,
    )

Method = Literal["ptq", "qat", "lsq", "lsq_plus", "dorefa", "bnn"]
SAMPLE = 100_000  # numbers of a tensor, at most, that a first scale is fitted to
SMALLEST = torch.finfo(torch.float32).eps  # a scale at least, where all numbers are 0; it is NNI's, too


class Lsq(LsqQuantizer):  # type: ignore[misc]
    """NNI's, a scale beginning at 2 mean |v| / sqrt(largest code), as in the paper, instead of 0.01."""

    def init_scale(self, wrapper: Any, target_name: str, target: Tensor) -> None:
        if self.is_init or not self.check_target(wrapper, target_name):
            return
        space = wrapper.quantization_target_spaces[target_name]
        rows = _rows(space, target)
        scale = 2 * rows.abs().mean(dim=1) / math.sqrt(space.qmax)
        space.scale.data = _shaped(space, scale.clamp(min=SMALLEST))
        space.zero_point = torch.zeros_like(space.scale.data)


class LsqPlus(LsqPlusQuantizer):  # type: ignore[misc]
    """NNI's, scale and zero point beginning as in the paper, instead of 0.01 and half the codes.

    Symmetric weights keep their zero point at 0, and the scale begins so that the codes reach three standard
    deviations from the mean. What is affine begins where the squared error is smallest, found by trying.
    """

    def check_validation(self) -> None:
        """Leaves out NNI's warning of symmetric weights."""

    def register_scale_zp(self) -> None:
        super().register_scale_zp()
        for targets in self._target_spaces.values():
            for name, space in targets.items():
                if space.quant_scheme == "symmetric":
                    delattr(space._wrapper, f"{name}_zero_point")
                    space._wrapper.register_buffer(f"{name}_zero_point", None)

    def init_scale_zp(self, wrapper: Any, target_name: str, target: Tensor) -> None:
        if self.is_init or not self.check_target(wrapper, target_name):
            return
        space = wrapper.quantization_target_spaces[target_name]
        rows = _rows(space, target)
        if space.quant_scheme == "symmetric":
            reach = 3 * rows.std(dim=1, unbiased=False)
            scale = (rows.mean(dim=1).abs() + reach) / 2 ** (space.quant_bits - 1)
            space.scale.data = _shaped(space, scale.clamp(min=SMALLEST))
            space.zero_point = torch.zeros_like(space.scale.data)
        else:
            scale, zero_point = least_squares_grid(rows, space.qmin, space.qmax)
            space.scale.data, space.zero_point.data = _shaped(space, scale), _shaped(space, zero_point)


class DoReFa(DoReFaQuantizer):  # type: ignore[misc]
    """NNI's, with gradients in float, and ranges of inputs that can be fixed.

    NNI rounds gradients to as many bits as the weights, which saves work only on hardware that trains with few bits.
    """

    fixed = False

    def register_output_backward_hook(self) -> None:
        """Leaves gradients as they are."""

    def update_scale_zp(self, wrapper: Any, target_name: str, target: Tensor) -> None:
        if not self.fixed:
            super().update_scale_zp(wrapper, target_name, target)

    def fix_ranges(self, images: Tensor) -> None:
        """From now on a convolution's input has the range that it had for these images."""
        self.fixed = False
        with torch.no_grad():
            self.bound_model(images)
        self.fixed = True


QUANTIZERS: dict[Method, type[Any]] = {
    "ptq": PtqQuantizer,
    "qat": QATQuantizer,
    "lsq": Lsq,
    "lsq_plus": LsqPlus,
    "dorefa": DoReFa,
    "bnn": BNNQuantizer,
}


def least_squares_grid(rows: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point, both (R,), under which rounding to the codes loses least of each row, in squares.

    rows: float32 (R, N). Tries the range of each row, zero in it, and 49 parts of it; those with the smallest error
    count, the larger first.
    """
    low, high = rows.amin(dim=1).clamp(max=0), rows.amax(dim=1).clamp(min=0)
    widest = (high - low).clamp(min=SMALLEST)
    best, scale, zero_point = torch.full_like(low, math.inf), torch.ones_like(low), torch.zeros_like(low)
    for share in torch.linspace(1, 0.02, 50).tolist():
        tried = share * widest / (highest - lowest)
        zero = lowest - share * low / tried
        codes = torch.round(torch.clamp(rows / tried[:, None] + zero[:, None], lowest, highest))
        error = ((codes - zero[:, None]) * tried[:, None] - rows).square().sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero_point = torch.where(better, tried, scale), torch.where(better, zero, zero_point)
    return scale, zero_point


def _rows(space: Any, target: Tensor) -> Tensor:
    """What one scale is for in one row: float32 (filters or 1, at most SAMPLE numbers)."""
    rows = target.detach().float()
    rows = rows.flatten(1) if space._scaler else rows.reshape(1, -1)
    return rows[:, :: -(-rows.shape[1] // SAMPLE)]


def _shaped(space: Any, values: Tensor) -> Tensor:
    """Scales as NNI keeps them: (F, 1, 1, 1), or (1,) for a tensor."""
    return values.view(-1, 1, 1, 1) if space._scaler else values
