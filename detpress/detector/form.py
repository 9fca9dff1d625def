"""The coarse word for what a model is, by which the steps of a chain fit together."""

from enum import StrEnum


class Form(StrEnum):
    """What a model is at a point in a chain."""

    DENSE = "dense"  # every weight is stored and used
    MASKED = "masked"  # zeros held by masks; as large and as slow as dense
    SIMULATED = "simulated"  # fake-quantised or binarised, computed in float by PyTorch
    INT8 = "int8"  # executed in integers
    HALF = "half"  # convolutions computed in 16 bits
    PACKED = "packed"  # weights stored in few bits, computed in float
