"""Int8 and 4 bits side by side: each layer gets what it needs, within a budget of mean bits.

chain:
  - mixed_bits: {mean_bits: 6}
"""

import csv
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from detpress.contract.plugin import Plan, Plugin, Workbench
from detpress.detector.form import Form
from detpress.errors import InputError, StageError
from detpress.plugins.inc import LayerOptions, layers_to_quantize, plan_of_int8
from detpress.training.image_counts import ImageCounts

if TYPE_CHECKING:
    from torch import Tensor

    from detpress.detector.model import Model
    from detpress.detector.network import Network

FEW: Literal[4] = 4
MANY: Literal[8] = 8
IMAGES = 8  # that the sensitivities are measured on; as many as by `detpress sensitivity`


class MixedBitsOptions(LayerOptions):
    """The budget, and how both kinds of layers are rounded."""

    mean_bits: float = Field(
        6.0, gt=FEW, le=MANY, description="of a weight's code at most, over all weights that are quantized"
    )
    group_size: int = Field(32, ge=1, le=65536, description="weights of a filter that share a scale in 4 bits")
    calibration_images: int = Field(64, ge=1, description="training images that the activations' ranges are read from")


class MixedBits(Plugin):
    """Int8 for the layers that need it, 4 bits for the others, chosen by measured sensitivity under a budget.

    Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", arXiv:2011.10680, 2021: an integer program, solved
    exactly, minimises the sum of what each layer's rounding disturbs, such that the weights' mean bits ("effective
    bits") are within the budget. Two networks are made of the given one, all in int8 (by Intel Neural Compressor, as
    `inc.static_int8`) and all in 4 bits (as `inc.weight_only` by rtn, groups with scales and zeros of their own), and
    `detpress sensitivity` measures of both, on 8 training images, how much of the raw maps' noise comes with each
    layer; the program adds that up.

    Changed: HAWQ estimates the disturbance by the Hessian's trace times the squared error of the weights and executes
    4 bits in integers on GPUs; here it is the noise at the raw maps, activations' rounding in it, and nothing is
    trained. That noises add up is an estimate: layers may also cancel or multiply each other's.

    Layers in int8 are executed in integers. Those in 4 bits are smaller in the file alone: they are decoded when the
    bundle is loaded and computed in float. `plugin.bits_per_weight` counts codes, as the budget does;
    `plugin.stored_bits_per_weight` counts scales, zeros and biases, too (a group of 32 has 32 bits of them).
    `files/bits.csv` has both noises, as shares of the signal's power, and the bits of every layer.
    """

    Config = MixedBitsOptions
    accepts = frozenset({Form.DENSE})
    returns = Form.INT8
    engine = "neural-compressor"

    def plan(self, model: "Model", config: MixedBitsOptions) -> Plan:
        sizes = sizes_of(model, config)
        least = FEW + (MANY - FEW) * min(sizes.values()) / sum(sizes.values())
        if config.mean_bits < least:
            raise InputError(f"mean_bits: {config.mean_bits:g} leaves no layer in int8; expected at least {least:.6g}")
        return plan_of_int8(
            model, list(sizes), "which layers have 4 bits is known when their sensitivities are measured"
        )

    def check(self, model: "Model", config: MixedBitsOptions, images: ImageCounts) -> None:
        images.check_asked(config, "calibration_images")

    def apply(self, model: "Model", config: MixedBitsOptions, bench: Workbench) -> "Model":
        from detpress.encodings.bit_allocation import cheapest_bits
        from detpress.encodings.equalization import equalized

        sizes = sizes_of(model, config)
        images = bench.calibration(config.calibration_images, config.is_default("calibration_images"))
        network = equalized(model.own_network, images)
        rounded = rounded_everywhere(network, sizes, images, config, bench)
        noises = {bits: noise_of(rounded[bits], network, images, bits, bench) for bits in rounded}
        costs = {i: {bits: noises[bits][i] for bits in rounded} for i in sizes}
        chosen = cheapest_bits(costs, sizes, config.mean_bits)
        if MANY not in chosen.values():
            raise StageError("no layer gains by int8 what it would lose at 4 bits; expected `inc.weight_only` instead")
        mixed = mixed_network(rounded[MANY], rounded[FEW], chosen, network, images)
        keep_figures(mixed, chosen, costs, sizes, bench)
        return model.with_network(mixed, Form.INT8)


def sizes_of(model: "Model", config: LayerOptions) -> dict[int, int]:
    """How many weights each convolution has that is quantized, by layer number."""
    layers = layers_to_quantize(model.architecture, config)
    return {i: model.network.get_parameter(f"layers.{i}.convolution.weight").numel() for i in layers}


def rounded_everywhere(
    network: "Network", sizes: "dict[int, int]", images: "Tensor", config: MixedBitsOptions, bench: Workbench
) -> "dict[int, Network]":
    """`network` with all of these layers in as many bits, by the bits."""
    from detpress.adapters.inc import Scheme, quantize_static
    from detpress.adapters.inc_weight_only import pack_weights
    from detpress.encodings.packed import Packed

    in_float = network.encodings.keys() - sizes.keys()
    scheme = Scheme(corrected=False)  # it is equalized already, and corrected when it is mixed
    int8 = quantize_static(network, network.architecture, images, scheme, in_float, bench.log)
    packing = Packed(FEW, config.group_size, symmetric=False)
    packed = pack_weights(network, packing, list(sizes), "rtn", False, None, bench.log, bench.progress)
    return {MANY: int8, FEW: packed}


def noise_of(rounded: "Network", network: "Network", images: "Tensor", bits: int, bench: Workbench) -> dict[int, float]:
    from detpress.measure.sensitivity import measure_sensitivity

    def progress(what: str, done: int, of: int) -> None:
        bench.progress(f"{bits} bits: {what}", done, of)

    return measure_sensitivity(rounded, network, images[:IMAGES], progress).noise()


def mixed_network(
    int8: "Network", packed: "Network", chosen: dict[int, int], network: "Network", images: "Tensor"
) -> "Network":
    """`int8` with some layers of `packed`, its scales between layers and its biases made for the mixture."""
    from detpress.detector.network import convolution_of, with_encoded
    from detpress.encodings.bias_correction import with_corrected_biases
    from detpress.encodings.calibration import with_scales_between

    few = [i for i, bits in chosen.items() if bits == FEW]
    mixed = with_encoded(int8, {i: (packed.encodings[i], convolution_of(packed, i).state_dict()) for i in few})
    return with_corrected_biases(with_scales_between(mixed, images), network, images)


def keep_figures(
    mixed: "Network",
    chosen: dict[int, int],
    costs: dict[int, dict[int, float]],
    sizes: dict[int, int],
    bench: Workbench,
) -> None:
    from detpress.detector.network import convolution_of

    stored = {i: mixed.encodings[i].stored_bytes(convolution_of(mixed, i).state_dict()) for i in chosen}
    every = sum(sizes.values())
    bench.figure("bits_per_weight", sum(sizes[i] * bits for i, bits in chosen.items()) / every)
    bench.figure("stored_bits_per_weight", 8 * sum(stored.values()) / every)
    bench.figure("layers_in_int8", sum(bits == MANY for bits in chosen.values()))
    bench.log.info("in int8: %s", ", ".join(f"layers.{i}" for i, bits in chosen.items() if bits == MANY))
    with bench.keep("bits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["layer", "weights", "noise in int8", "noise in 4 bits", "bits"])
        writer.writerows([i, sizes[i], *(f"{costs[i][bits]:.4g}" for bits in (MANY, FEW)), chosen[i]] for i in chosen)
