"""Numbers of a few bits, one after the other without gaps, the highest bit first, zeros up to a whole byte."""

import numpy as np
from numpy.typing import NDArray


def packed(numbers: NDArray[np.int64], bits: int) -> bytes:
    """numbers: (N,), each below 2**bits."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((numbers[:, None] >> places & 1).astype(np.uint8)).tobytes()


def unpacked(stored: bytes, bits: int, count: int) -> NDArray[np.int64]:
    """The first `count` numbers of `packed`; stored: enough for them."""
    single = np.unpackbits(np.frombuffer(stored, np.uint8), count=count * bits).reshape(count, bits)
    return single.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
