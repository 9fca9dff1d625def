"""PyTorch itself: eager, and compiled by inductor with the weights as constants."""

import contextlib
import copy
import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from detpress.detector.model import Model
from detpress.engine_log import engine_messages
from detpress.errors import StageError
from detpress.runtimes.runtime import Runtime, in_batches, precision_name

LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())


def open_eager(model: Model, batch: int, threads: int) -> Runtime:
    """As the network is written, in float: an int8 model's integers are computed with, but as floats."""
    network = model.network.eval()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch_threads(threads), torch.inference_mode():
            return tuple(network(images))

    return Runtime("torch", run, threads, precision_name(float_precisions(model)))


def open_compiled(model: Model, batch: int, threads: int) -> Runtime:
    """torch.compile with freezing, under which inductor executes the convolutions of an int8 model in integers.

    Raises StageError where no C++ compiler is found.
    """
    torch._dynamo.reset()  # or the network of the 9th model would stay uncompiled
    network = copy.deepcopy(model.network).eval()
    compiled = torch.compile(network, fullgraph=True, dynamic=False)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch_threads(threads), torch.inference_mode(False), torch.no_grad():
            return tuple(compiled(images.clone() if images.is_inference() else images))

    size = model.architecture.input_size
    in_integers = counters["inductor"]["qconv_weight_prepack_matcher_count"]
    try:
        with engine_messages(LOG, "torch"), torch._inductor.config.patch(freezing=True):
            run(torch.zeros(batch, 3, *size))
    except torch._inductor.exc.InductorError as error:
        raise StageError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    in_integers = counters["inductor"]["qconv_weight_prepack_matcher_count"] - in_integers
    precisions = ["int8"] * in_integers + float_precisions(model)[in_integers:]
    return Runtime("torch-compile", in_batches(run, batch), threads, precision_name(precisions))


def float_precisions(model: Model) -> list[str]:
    """What each convolution computes in as it is written; one of int8 weights, or of signs, in float32."""
    precisions = [encoding.precision for encoding in model.encodings.values()]
    return ["fp32" if precision in ("int8", "binary") else precision for precision in precisions]


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch's number of threads belongs to the process; it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
