"""The bridge to NNI 3.0's quantizers: they choose or learn the numbers, the network that holds them is our own.

NNI wraps every convolution and rounds its weights and its input on the way. What the shared detector needs besides:

- BatchNorm. QAT and PTQ round weights that have it folded in, by NNI's fusion of the two, as integers will be
  computed with. LSQ, LSQ+, DoReFa and BNN round the convolution's own weights and leave BatchNorm behind it, as their
  papers do (DoReFa's and BNN's weights have a size of their own, which only BatchNorm makes up for). It multiplies and
  shifts every filter, so in the finished network it is part of scales and biases, exactly.
- NNI's fusion gives no gradient to BatchNorm's shift where the convolution has no bias; each is lent one of zeros.
- Scales and zero points of LSQ and LSQ+ are trained at a rate in proportion to their size: Adam's steps have the size
  of the learning rate, whatever they are added to, and 0.001 added to the scale of an 8-bit weight would be a third of
  it.

What comes back is compared with NNI's wrapped model, layer by layer, before it is accepted.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD

from detpress.adapters.nni_quantizers import QUANTIZERS, DoReFa, Method
from detpress.adapters.nni_training import WorkbenchEvaluator, without_wrappers
from detpress.contract.plugin import Workbench
from detpress.detector.architecture import Architecture, Convolution
from detpress.detector.folding import batch_norm_of
from detpress.detector.network import Network, convolution_name
from detpress.encodings.simulated import Codes, Grid, simulated_network
from detpress.engine_log import engine_messages
from detpress.errors import StageError
from detpress.training.config import TrainingConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NNI registers with torch what torch has registered since
    import nni
    from nni.compression.utils.evaluator import TorchEvaluator

Scheme = Literal["symmetric", "affine"]
FOLDED: tuple[Method, ...] = ("ptq", "qat")  # round weights with BatchNorm in them
BATCH = 16  # calibration images computed at a time
TOLERANCE = 1e-4  # largest difference of a layer's output from NNI's on the same input, relative to the largest output
SIGNS = Grid(0, 1, scale=2.0, zero_point=0.5)


@dataclass(frozen=True)
class LayerTargets:
    """What of one convolution is quantized.

    activation_bits: of its input; None leaves it in float. per_channel: a scale a filter, instead of one a tensor.
    """

    weight_bits: int
    activation_bits: int | None
    weight_scheme: Scheme = "symmetric"
    activation_scheme: Scheme = "affine"
    per_channel: bool = False


def quantize(
    method: Method,
    network: Network,
    layers: Mapping[int, LayerTargets],
    images: Tensor,
    training: TrainingConfig | None,
    bench: Workbench,
) -> Network:
    """The simulated network that NNI's quantizer makes of a copy of `network`.

    layers: convolution's layer number -> what is quantized of it.
    images: float32 (N, 3, H, W) in [0, 1]; first ranges and scales are read from them, PTQ's and DoReFa's last ones.
    training: None for PTQ, which only calibrates.
    Raises StageError where a scale that was learned is none, and where the result does not compute what NNI does.
    """
    wrapped = copy.deepcopy(network).requires_grad_(True)
    with engine_messages(bench.log, "nni"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        evaluator = (
            QuantizationEvaluator(wrapped, network.architecture, training, bench)
            if training
            else _calibration(wrapped, images)
        )
        lent = _lend_biases(wrapped, layers) if method in FOLDED else []
        quantizer = QUANTIZERS[method](wrapped, _config_list(method, layers, lent), evaluator)
        if training:
            wrapped.train(method == "qat")  # QAT sees ranges only while it trains
            quantizer.track_forward(images)  # makes the tensors that NNI keeps in the network, for checkpoints to fill
            quantizer.is_init = True
            quantizer.compress(None, training.epochs)
        else:
            quantizer.compress(0, None)
        wrapped.eval()
        if isinstance(quantizer, DoReFa):
            quantizer.fix_ranges(images)
        expected = _inputs_and_outputs(wrapped, network.architecture, images[:1])
        quantizer.unwrap_model()
    trained = _without_lent_biases(wrapped, network.architecture, lent)
    targets = quantizer._target_spaces
    quantized = {i: _codes(method, trained, i, layer, targets[convolution_name(i)]) for i, layer in layers.items()}
    simulated = simulated_network(trained, quantized)
    difference = _largest_difference(simulated, expected)
    bench.log.info("largest difference of a layer from NNI's: %.3g of its largest output", difference)
    if not difference <= TOLERANCE:
        raise StageError(f"the simulated network differs from NNI's by {difference:.3g} of a layer's output")
    return simulated


class QuantizationEvaluator(WorkbenchEvaluator):
    """Gives each tensor that a quantizer adds to the training a learning rate in proportion to its size."""

    def patch_optim_param_group(self, module_name_param_dict: dict[str, list[Tensor]]) -> None:
        (optimizer,) = self._optimizers
        for tensors in module_name_param_dict.values():
            for tensor in tensors:
                if isinstance(tensor, nn.Parameter):
                    size = float(tensor.detach().abs().mean()) or 1.0
                    rate = self.training.learning_rate * size
                    optimizer.add_param_group({"params": [tensor], "lr": rate, "weight_decay": 0.0})


def _calibration(network: nn.Module, images: Tensor) -> TorchEvaluator:
    """An evaluator that trains nothing, and shows the network the images where NNI wants it evaluated."""

    def show(wrapped: nn.Module) -> float:
        wrapped.eval()
        with torch.no_grad():
            for batch in torch.split(images, BATCH):
                wrapped(batch)
        return 0.0

    optimizer = nni.trace(SGD)(network.parameters(), lr=1.0)
    return TorchEvaluator(lambda *arguments: None, optimizer, lambda batch, model: 0.0, evaluating_func=show)


def _config_list(method: Method, layers: Mapping[int, LayerTargets], lent: list[int]) -> list[dict[str, Any]]:
    """NNI's description of what is quantized; one entry a layer, in the order of the layers."""
    return [_layer_config(method, i, layer, i in lent) for i, layer in layers.items()]


def _layer_config(method: Method, i: int, layer: LayerTargets, fused: bool) -> dict[str, Any]:
    settings = {"weight": _setting(method, layer.weight_bits, layer.weight_scheme)}
    if layer.per_channel:
        settings["weight"]["granularity"] = "out_channel"
    if layer.activation_bits is not None:
        settings["_input_"] = _setting(method, layer.activation_bits, layer.activation_scheme)
    config: dict[str, Any] = {
        "op_names": [convolution_name(i)],
        "target_names": list(settings),
        "target_settings": settings,
        "quant_dtype": None,
    }
    if fused:
        config["fuse_names"] = [(convolution_name(i), f"layers.{i}.norm")]
    return config


def _setting(method: Method, bits: int, scheme: Scheme) -> dict[str, Any]:
    if method == "bnn":  # -1 and 1, whatever the type
        return {"quant_dtype": None}
    return {"quant_dtype": f"{'int' if scheme == 'symmetric' else 'uint'}{bits}", "quant_scheme": scheme}


def _lend_biases(network: Network, layers: Mapping[int, LayerTargets]) -> list[int]:
    """Gives the convolutions that BatchNorm follows a bias of zeros; the layer numbers of these."""
    lent = []
    for i in layers:
        convolution = network.get_submodule(convolution_name(i))
        assert isinstance(convolution, nn.Conv2d)
        if convolution.bias is None and hasattr(network.get_submodule(f"layers.{i}"), "norm"):
            convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
            lent.append(i)
    return lent


def _without_lent_biases(unwrapped: nn.Module, architecture: Architecture, lent: list[int]) -> Network:
    """The trained network; what the lent biases learned is taken into BatchNorm's mean, which has the same effect."""
    network = without_wrappers(unwrapped, architecture)
    for i in lent:
        mean = network.get_buffer(f"layers.{i}.norm.running_mean")
        mean -= unwrapped.get_parameter(f"{convolution_name(i)}.bias").detach()
    return network


def _codes(method: Method, network: Network, i: int, layer: LayerTargets, spaces: Mapping[str, Any]) -> Codes:
    """What NNI rounds the convolution to, from the weights that it trained and the scales that it came to."""
    space = spaces["weight"]
    folded = method in FOLDED
    weight = network.get_parameter(f"{convolution_name(i)}.weight").detach()
    if folded:
        weight = weight * batch_norm_of(network, i)[0].view(-1, 1, 1, 1)
    ones = torch.ones(len(weight))
    grid = _grid(method, i, spaces["_input_0"]) if "_input_0" in spaces else None
    if method == "bnn":
        signs = torch.where(weight >= 0, 1.0, -1.0)
        return Codes(signs, -1, 1, 1, ones, 0 * ones, grid, folded)
    scale, zero_point = _numbers(i, "weight", space)
    if method == "dorefa":  # from -1 to 1
        bounded = weight.tanh()
        bounded = bounded / (2 * bounded.abs().max()) + 0.5
        steps = space.qmax
        codes = torch.round(torch.clamp(zero_point + bounded / scale, 0, steps))
        if steps <= 127:  # the odd numbers of a symmetric range
            return Codes(2 * codes - steps, -steps, steps, layer.weight_bits, ones / steps, 0 * ones, grid, folded)
        return Codes(codes, 0, steps, layer.weight_bits, 2 * ones / steps, steps / 2 * ones, grid, folded)
    codes = torch.round(torch.clamp(zero_point + weight / scale, space.qmin, space.qmax))
    scale, zero_point = ((ones.view(-1, 1, 1, 1) * tensor).flatten() for tensor in (scale, zero_point))
    return Codes(codes, space.qmin, space.qmax, layer.weight_bits, scale, zero_point, grid, folded)


def _grid(method: Method, i: int, space: Any) -> Grid:
    if method == "bnn":
        return SIGNS
    scale, zero_point = _numbers(i, "input", space)
    return Grid(space.qmin, space.qmax, float(scale), float(zero_point))


def _numbers(i: int, what: str, space: Any) -> tuple[Tensor, Tensor]:
    """Scale and zero point that NNI came to. Raises StageError where a scale is not positive."""
    scale, zero_point = (tensor.detach().cpu() for tensor in (space.scale, space.zero_point))
    if not (scale > 0).all():
        raise StageError(f"layers.{i}: a scale of its {what} was trained to {float(scale.min()):.3g}; lower the rate")
    return scale, zero_point


def _inputs_and_outputs(
    network: nn.Module, architecture: Architecture, images: Tensor
) -> dict[int, tuple[Tensor, Tensor]]:
    """Of each convolution, with its BatchNorm and activation, by layer number."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    hooks = [
        network.get_submodule(f"layers.{i}").register_forward_hook(
            lambda _, inputs, output, i=i: seen.update({i: (inputs[0], output)})
        )
        for i, layer in enumerate(architecture.layers)
        if isinstance(layer, Convolution)
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return seen


def _largest_difference(network: nn.Module, expected: Mapping[int, tuple[Tensor, Tensor]]) -> float:
    """Of a layer's output from the one expected for this input, relative to the largest of it; NaN where any is."""
    with torch.no_grad():
        differences = [
            (network.get_submodule(f"layers.{i}")(given) - output).abs().max() / output.abs().max().clamp(min=1e-12)
            for i, (given, output) in expected.items()
        ]
    return float(torch.stack(differences).max())
