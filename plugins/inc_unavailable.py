"""What Intel Neural Compressor 3.10 has and convolutions, or CPUs, cannot use: listed, so that nobody looks in vain.

A recipe that names one is refused with the reason.
"""

from typing import TYPE_CHECKING, NoReturn

from detpress.contract.plugin import Plugin, Workbench
from detpress.detector.form import Form
from detpress.options import NoOptions

if TYPE_CHECKING:
    from detpress.detector.model import Model

SCALES_OF_COLUMNS = (
    "scales single columns of a layer's matrix and undoes it in what the layer before gives; of a 3x3 convolution's "
    "matrix nine columns belong to one channel, which only one factor reaches"
)


class Unavailable(Plugin):
    """Listed with its reason only."""

    Config = NoOptions
    accepts = frozenset({Form.DENSE})
    engine = "neural-compressor"

    def apply(self, model: "Model", config: NoOptions, bench: Workbench) -> NoReturn:
        raise NotImplementedError(self.unavailable)


class Awq(Unavailable):
    """Weights in few bits after scaling the channels that matter most.

    Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
    arXiv:2306.00978, 2023.
    """

    returns = Form.PACKED
    unavailable = SCALES_OF_COLUMNS


class Teq(Unavailable):
    """Weights in few bits after scaling channels by trained factors.

    Cheng et al., "TEQ: Trainable Equivalent Transformation for Quantization of LLMs", arXiv:2310.10944, 2023.
    """

    returns = Form.PACKED
    unavailable = SCALES_OF_COLUMNS


class AutoRound(Unavailable):
    """Weights in few bits whose rounding is learned by signed gradient descent.

    Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs",
    arXiv:2309.05516, 2023.
    """

    returns = Form.PACKED
    unavailable = "INC hands the model to the package auto-round, which tunes blocks of transformers on text"


class Mx(Unavailable):
    """Blocks of 32 numbers with a shared exponent (OCP Microscaling Formats, 2023)."""

    returns = Form.SIMULATED
    unavailable = "INC rounds the inputs of Linear layers while they compute; a convolution in its place is left alone"


class SmoothQuant(Unavailable):
    """Int8 after moving the range of activations into the weights.

    Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    arXiv:2211.10438, 2023.
    """

    returns = Form.INT8
    unavailable = "INC's needs the package intel_extension_for_pytorch, which Intel has discontinued"


class Fp8(Unavailable):
    """Floating-point numbers of 8 bits: 4 of exponent and 3 of precision, or 5 and 2.

    Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433, 2022.
    """

    returns = Form.SIMULATED
    unavailable = (
        "INC's FP8 is for Gaudi: on a CPU its default scales fail (KeyError: None, no entry for this device), with "
        "others it computes in bfloat16 or float32, and no runtime here has convolutions of 8-bit floats"
    )
