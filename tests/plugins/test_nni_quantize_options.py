"""The quantizers of a recipe: which layers their options choose, at how many bits."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.encodings.simulated import Simulated
from detpress.errors import InputError
from detpress.options import Options
from detpress.plugins.nni_quantize import (
    Bits,
    Bnn,
    BnnOptions,
    DoReFa,
    DoReFaOptions,
    Lsq,
    LsqOptions,
    LsqPlus,
    LsqPlusOptions,
    Ptq,
    Qat,
    QatOptions,
    Quantizer,
    UniformSteps,
)
from detpress.training.config import TrainingConfig

TRAINING = TrainingConfig(epochs=1)


@dataclass
class SmallBench:
    """What a quantizer that only calibrates uses of a workbench."""

    images: Tensor
    scratch: Path
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tests.nni_quantize"))
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    def calibration(self, images: int, or_fewer: bool = False) -> Tensor:
        return self.images[:images]


def convolutions(model: Model) -> set[int]:
    return {i for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution)}


def test_the_first_convolution_and_the_heads_stay_in_float_unless_told(dense_model: Model) -> None:
    bits = Ptq().bits(dense_model.architecture, UniformSteps())
    assert set(bits) == convolutions(dense_model) - {0, *dense_model.architecture.heads}
    bits = Ptq().bits(dense_model.architecture, UniformSteps(first_and_heads=True, float_layers=["layers.1?"]))
    assert set(bits) == convolutions(dense_model) - set(range(10, 20))


@pytest.mark.parametrize(
    ("plugin", "config"), [(DoReFa(), DoReFaOptions(training=TRAINING)), (Bnn(), BnnOptions(training=TRAINING))]
)
def test_weights_of_a_size_of_their_own_are_for_convolutions_with_batchnorm(plugin: Quantizer, config: Options) -> None:
    """YOLO Nano's attention has convolutions without; what only rounds weights takes them, too."""
    nano = build_architecture("yolo-nano", ["a"], 64, width=0.125)
    bare = {i for i, layer in enumerate(nano.layers) if isinstance(layer, Convolution) and not layer.batch_normalize}
    attention = bare - set(nano.heads)
    assert attention
    assert attention <= set(Qat().bits(nano, QatOptions(training=TRAINING)))
    assert not bare & set(plugin.bits(nano, config))


def test_an_override_changes_what_it_names_and_the_last_one_wins(dense_model: Model) -> None:
    overrides = {
        "layers.*": Bits(weight_bits=4),
        "layers.1": Bits(activation_bits=None),
        "layers.2": Bits(weight_bits=2),
    }
    bits = Qat().bits(dense_model.architecture, QatOptions(activation_bits=6, overrides=overrides, training=TRAINING))
    assert (bits.pop(1), bits.pop(2)) == ((4, None), (2, 6))
    assert set(bits.values()) == {(4, 6)}


@pytest.mark.parametrize(
    ("plugin", "config"),
    [(Ptq(), UniformSteps(weight_bits=1)), (Lsq(), LsqOptions(weight_bits=1, training=TRAINING)),
     (LsqPlus(), LsqPlusOptions(overrides={"layers.1": Bits(weight_bits=1)}, training=TRAINING)),
     (Qat(), QatOptions(activation_bits=1, activation_scheme="symmetric", training=TRAINING)),
     (Lsq(), LsqOptions(activation_bits=1, training=TRAINING))],
)  # fmt: skip
def test_one_symmetric_bit_is_refused(plugin: Quantizer, config: object, dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"(weight|activation)_bits: 1 bit, symmetric about 0, is 0 alone"):
        plugin.plan(dense_model, config)


def test_one_bit_is_fine_where_it_tells_two_numbers_apart(dense_model: Model) -> None:
    affine = LsqPlusOptions(weight_bits=1, activation_bits=1, weight_scheme="affine", training=TRAINING)
    for plugin, config in (
        (LsqPlus(), affine),
        (DoReFa(), DoReFaOptions(weight_bits=1, activation_bits=1, training=TRAINING)),
        (Bnn(), BnnOptions(training=TRAINING)),
    ):
        assert set(plugin.bits(dense_model.architecture, config).values()) == {(1, 1)}
    assert set(Bnn().bits(dense_model.architecture, BnnOptions(binary_inputs=False, training=TRAINING)).values()) == {
        (1, None)
    }


@pytest.mark.parametrize("option", ["float_layers", "overrides"])
@pytest.mark.parametrize("pattern", ["layers.1000", "layers.4", "layer.1"])
def test_a_pattern_that_matches_no_convolution_is_an_error(option: str, pattern: str, dense_model: Model) -> None:
    """Layer 4 is a shortcut."""
    config = UniformSteps(**{option: [pattern] if option == "float_layers" else {pattern: Bits(weight_bits=4)}})
    with pytest.raises(InputError, match=f"{option}: '{pattern}' matches no layer"):
        Ptq().plan(dense_model, config)


def test_an_override_of_a_layer_in_float_is_an_error(dense_model: Model) -> None:
    with pytest.raises(InputError, match=r"overrides: 'layers\.0' matches no layer"):
        Ptq().plan(dense_model, UniformSteps(overrides={"layers.0": Bits(weight_bits=4)}))


def test_nothing_left_to_quantize_is_an_error(dense_model: Model) -> None:
    with pytest.raises(InputError, match="float_layers: leaves no convolution to quantize"):
        Ptq().plan(dense_model, UniformSteps(float_layers=["layers.*"]))


@pytest.mark.parametrize(
    "options",
    [{"weight_bits": 0}, {"weight_bits": 9}, {"activation_bits": 16}, {"bits": 8}, {"weight_scheme": "log"},
     {"overrides": {"layers.1": {"weight_bits": 9}}}, {"overrides": {"layers.1": {"per_channel": True}}}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        UniformSteps.model_validate(options)


def test_the_plan_names_the_layers_that_apply_quantizes(dense_model: Model, images: Tensor, tmp_path: Path) -> None:
    config = UniformSteps(
        float_layers=["layers.1?"], overrides={"layers.2?": Bits(weight_bits=4)}, calibration_images=8
    )
    model = Ptq().apply(dense_model, config, SmallBench(images, tmp_path))
    assert model.form is Form.SIMULATED
    layers = {i: layer for i, layer in model.encodings.items() if isinstance(layer, Simulated)}
    assert Ptq().plan(dense_model, config).layers == tuple(f"layers.{i}" for i in layers)
    for i, layer in layers.items():
        assert layer.weight_bits == (4 if 20 <= i < 30 else 8)
