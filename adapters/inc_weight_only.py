"""The bridge to INC's weight-only quantization, which knows Linear layers and silently leaves convolutions alone.

A convolution is a Linear layer on the patches of its input: its weights (F, I, k, k) are the matrix (F, I * k * k), and
what the matrix is multiplied with are the columns of `unfold` (im2col). So INC is given one Linear layer at a time, and
the codes, scales and zeros that it chooses are read off what it made of it, into `Packed` layers.
"""

import contextlib
import copy
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpress.adapters.inc_work import inc_work
from detpress.detector.architecture import Convolution
from detpress.detector.folding import batch_norm_of, folded_weight
from detpress.detector.network import Network, convolution_name, filled_network, folded_but
from detpress.encodings.packed import Packed, decode, pack
from detpress.errors import StageError
from detpress.progress import Progress

PATCHES = 1024  # of an image that GPTQ is shown at most, spread evenly over it

Algorithm = Literal["rtn", "gptq", "hqq"]


@dataclass(frozen=True)
class Codes:
    """A matrix (F, K) in few bits. codes: uint8 (F, K); scale, zero: float16 (F, groups); see `Packed`."""

    codes: Tensor
    scale: Tensor
    zero: Tensor


def pack_weights(
    network: Network,
    packing: Packed,
    layers: Collection[int],
    algorithm: Algorithm,
    search_range: bool,
    images: Tensor | None,
    log: logging.Logger,
    progress: Progress,
) -> Network:
    """`network` with weights in few bits, chosen by INC; `network` itself is left as it was.

    layers: numbers of the convolutions that are packed; the others stay in float.
    search_range: of each group a smaller range, where its squared error is less (rtn and gptq).
    images: float32 (N, 3, H, W) in [0, 1], for gptq: layer after layer, the inputs are those that the layers before
        give with their codes.
    Raises StageError where a weight or an input is not finite, and where scales in 16 bits would be infinite, or leave
    nothing of a convolution's weights.
    """
    current = copy.deepcopy(network).eval().requires_grad_(False)
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(network.architecture.layers):
        if not isinstance(layer, Convolution):
            tensors |= {f"layers.{i}.{part}": tensor for part, tensor in network.layers[i].state_dict().items()}
            continue
        name = convolution_name(i)
        if i not in layers:
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = folded_weight(network, i)
            continue
        progress(f"{algorithm}: layers.{i}", i, len(network.architecture.layers))
        weight = current.get_parameter(f"{name}.weight")
        matrix = weight.flatten(1)
        if not matrix.isfinite().all():
            raise StageError(f"{name}: a weight is not finite")
        with inc_work(log):
            match algorithm:
                case "rtn":
                    found = round_to_nearest(matrix, packing, search_range)
                case "hqq":
                    found = half_quadratic(matrix, packing)
                case "gptq":
                    assert images is not None
                    inputs = list(_inputs(current, name, images))
                    found = _by_groups(matrix, inputs, layer, packing, search_range)
        zero = None if packing.symmetric else found.zero
        decoded = decode(found.codes, found.scale, zero, packing)
        if not decoded.isfinite().all() or (matrix.any() and not decoded.any()):
            largest = float(matrix.abs().max())
            raise StageError(f"{name}: 16 bits hold no scale for its weights, the largest of which is {largest:.4g}")
        weight.copy_(decoded.reshape(weight.shape))
        gain, bias = batch_norm_of(network, i)
        tensors |= {
            f"{name}.codes": pack(found.codes, packing.bits),
            f"{name}.scale": found.scale,
            f"{name}.gain": gain,
            f"{name}.bias": bias,
        }
        if zero is not None:
            tensors[f"{name}.zero"] = zero
    encodings = folded_but(network.architecture, dict.fromkeys(layers, packing))
    return filled_network(network.architecture, encodings, tensors)


def round_to_nearest(matrix: Tensor, packing: Packed, search_range: bool) -> Codes:
    """matrix: float32 (F, K). INC's RTN."""
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    config = RTNConfig(
        bits=packing.bits,
        use_sym=packing.symmetric,
        group_size=packing.group_size,
        use_mse_search=search_range,
        use_layer_wise=False,
    )
    model = _OneLinear(matrix)
    return _read(convert(prepare(model, config)))


def gptq(matrix: Tensor, patches: list[Tensor], packing: Packed, search_range: bool) -> Codes:
    """matrix: float32 (F, K); patches: of each batch of images, float32 (n, K). INC's GPTQ."""
    from neural_compressor.torch.quantization import GPTQConfig, convert, prepare

    config = GPTQConfig(
        bits=packing.bits,
        use_sym=packing.symmetric,
        group_size=packing.group_size,
        use_mse_search=search_range,
        # INC takes a group's range from weights that the blocks before have changed, and not those within its own.
        block_size=packing.group_size if packing.group_size > 0 else matrix.shape[1],
        model_path=os.curdir,  # not read, but what is no folder would be looked for on the Hugging Face Hub
    )
    prepared = prepare(_OneLinear(matrix), config)
    for rows in patches:
        if not rows.isfinite().all():
            raise StageError("the network gives numbers that are not finite for the calibration images")
        prepared(rows)
    with _ranges_about_zero():
        return _read(convert(prepared))


@contextlib.contextmanager
def _ranges_about_zero() -> Iterator[None]:
    """INC's symmetric GPTQ gives weights that are all positive a range from 0 on, and then centres the codes on 0, so
    that the larger half of them is cut off; with their negatives beside them the range is as wide to both sides."""
    from neural_compressor.torch.algorithms.weight_only.gptq import Quantizer

    find_params = Quantizer.find_params

    def of_both_signs(quantizer: Any, x: Tensor, weight: bool = False) -> Any:
        return find_params(quantizer, torch.cat([x, -x], dim=1) if quantizer.sym and weight else x, weight)

    Quantizer.find_params = of_both_signs
    try:
        yield
    finally:
        Quantizer.find_params = find_params


def half_quadratic(matrix: Tensor, packing: Packed) -> Codes:
    """matrix: float32 (F, K). INC's HQQ, whose groups are the columns of the matrix that it is given."""
    filters, columns = matrix.shape
    size = columns if packing.group_size == -1 else packing.group_size
    whole = columns - columns % size
    parts = [
        (matrix[:, start:end].reshape(-1, length).t(), length)
        for start, end, length in ((0, whole, size), (whole, columns, columns - whole))
        if end > start
    ]
    found = [_half_quadratic_columns(part, packing) for part, _ in parts]
    return Codes(
        torch.cat([one.codes.t().reshape(filters, -1) for one in found], dim=1),
        torch.cat([one.scale.reshape(filters, -1) for one in found], dim=1),
        torch.cat([one.zero.reshape(filters, -1) for one in found], dim=1),
    )


def _half_quadratic_columns(part: Tensor, packing: Packed) -> Codes:
    """part: float32 (group size, groups). HQQ packs two rows into one: an odd one is repeated and taken off again."""
    from neural_compressor.torch.algorithms.weight_only.hqq.bitpack import Packer
    from neural_compressor.torch.quantization import HQQConfig, convert, prepare

    rows = len(part)
    even = torch.cat([part, part[-1:]]) if rows % 2 else part
    config = HQQConfig(bits=packing.bits, group_size=-1, quant_zero=False, quant_scale=False)
    quantized = _linear(convert(prepare(_OneLinear(even.contiguous()), config))).q_weight
    codes = Packer.get_unpack_fn(packing.bits)(quantized.val)[:rows]
    return Codes(codes.to(torch.uint8), quantized.scale.half(), quantized.zero.half())


def _by_groups(matrix: Tensor, inputs: list[Tensor], layer: Convolution, packing: Packed, search_range: bool) -> Codes:
    """GPTQ for each group of a grouped convolution, whose filters see the group's channels only."""
    found = []
    for group, rows in enumerate(matrix.chunk(layer.groups)):
        patches = [_patches(x.chunk(layer.groups, dim=1)[group], layer) for x in inputs]
        found.append(gptq(rows, patches, packing, search_range))
    return Codes(*(torch.cat([getattr(one, name) for one in found]) for name in ("codes", "scale", "zero")))


def _patches(x: Tensor, layer: Convolution) -> Tensor:
    """What a convolution's matrix is multiplied with: (1, I, H, W) -> (patches, I * k * k)."""
    columns = functional.unfold(x, layer.kernel, layer.dilation, layer.padding, layer.stride)[0]
    every = columns.shape[1]
    taken = min(every, PATCHES)
    # From the first to the last one: a whole number of places between them would often divide the rows.
    return columns[:, torch.arange(taken) * (every - 1) // max(1, taken - 1)].t()


@torch.no_grad()
def _inputs(network: Network, name: str, images: Tensor) -> Iterator[Tensor]:
    """What the convolution `name` is given, one image at a time."""
    seen: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        for image in images:
            network(image[None])
            yield seen.pop()
    finally:
        handle.remove()


class _OneLinear(nn.Module):
    """The matrix as the only layer of the only block of a model: GPTQ looks for a list of blocks."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        linear.weight = nn.Parameter(matrix.detach().clone(), requires_grad=False)
        self.blocks = nn.ModuleList([_Block(linear)])

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Any:
        return self.linear(x)


def _linear(model: nn.Module) -> Any:
    linear = model.get_submodule("blocks.0.linear")
    if type(linear) is nn.Linear:
        raise StageError("INC left the layer as it was")
    return linear


def _read(model: nn.Module) -> Codes:
    """What INC packed, unpacked: its own `recover` overflows where 8-bit codes lie far from their zero."""
    values = _linear(model).unpack()
    zero = values["zp"]
    return Codes(values["int_weight"].to(torch.uint8), values["scales"].half(), zero.half())
