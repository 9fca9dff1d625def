"""The range that is best for what a leaky ReLU takes, where a runtime rounds that, too.

    convolution  ->  rounded, in [low, high] by 255 steps  ->  leaky ReLU  ->  rounded

What is negative counts for a tenth afterwards, and often reaches farther than what is positive. A range that cuts a
part of it off has finer steps for all the rest.
"""

import torch
from torch import Tensor

from detpress.detector.kinds.activation import LEAKY_SLOPE

BINS, CANDIDATES = 256, 16


class BeforeLeaky:
    """A histogram of the negative values that a leaky ReLU takes, and how many others there are.

    low, high: ends of the values' range.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        self.negative = torch.zeros(BINS, dtype=torch.float64)  # from low to 0
        self.others = 0.0

    def see(self, x: Tensor) -> None:
        """x: float32 of any shape; what is below low counts as low."""
        negative = x[x < 0]
        self.others += x.numel() - negative.numel()
        if self.low < 0:
            self.negative += torch.histc(negative.clamp(min=self.low), BINS, self.low, 0.0).double()

    def best_range(self) -> tuple[float, float]:
        """With the same higher end, and of `CANDIDATES` lower ones that whose squared error behind the leaky ReLU is
        the least: a twelfth of a squared step for what is rounded, the whole distance for what is cut off.
        """
        low = min((self.low * n / CANDIDATES for n in range(CANDIDATES, 0, -1)), key=self._error)
        return low, self.high

    def _error(self, low: float) -> float:
        values = self.low * (1 - (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS)
        cut = (low - values).clamp(min=0)
        rounded = self.others + LEAKY_SLOPE**2 * float(self.negative[cut == 0].sum())
        step = (self.high - low) / 255
        return step**2 / 12 * rounded + LEAKY_SLOPE**2 * float((self.negative * cut.square()).sum())
