"""`inc.static_int8` as a recipe uses it, and what `inc.weight_only` refuses."""

import logging
from dataclasses import dataclass, field

import pytest
from pydantic import ValidationError
from torch import Tensor

from detpress.detector.architecture import Convolution
from detpress.detector.form import Form
from detpress.detector.model import Model
from detpress.encodings.int8 import input_scales
from detpress.errors import InputError
from detpress.measure.size import parameter_count
from detpress.plugins.inc import StaticInt8, StaticInt8Options, WeightOnlyOptions


@dataclass
class SmallBench:
    """What the plugin uses of a workbench."""

    images: Tensor
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tests.inc_int8"))

    def calibration(self, images: int, or_fewer: bool = False) -> Tensor:
        return self.images[:images]


def test_the_plan_is_what_apply_gives(dense_model: Model, images: Tensor) -> None:
    config = StaticInt8Options(calibration_images=4, float_layers=["layers.0", "layers.1?"], float_heads=True)
    plan = StaticInt8().plan(dense_model, config)
    model = StaticInt8().apply(dense_model, config, SmallBench(images))
    assert model.form is Form.INT8
    assert plan.layers == tuple(f"layers.{i}" for i in input_scales(model.network))
    assert plan.model.form is model.form
    assert parameter_count(plan.model.network) == parameter_count(model.network) < parameter_count(dense_model.network)
    every = {i for i, layer in enumerate(dense_model.architecture.layers) if isinstance(layer, Convolution)}
    in_float = {0, *range(10, 20), *dense_model.architecture.heads}
    assert set(input_scales(model.network)) == every - in_float


def test_a_pattern_that_matches_no_convolution_is_an_error(dense_model: Model) -> None:
    for pattern in ("layers.1000", "layers.4", "layer.0"):  # layer 4 is a shortcut
        with pytest.raises(InputError, match=f"float_layers: '{pattern}' matches no layer"):
            StaticInt8().plan(dense_model, StaticInt8Options(float_layers=[pattern]))


@pytest.mark.parametrize("options", [{"calibration_images": 0}, {"algorithm": "percentile"}, {"calibration": 64}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        StaticInt8Options(**options)


@pytest.mark.parametrize("algorithm", ["rtn", "hqq"])
def test_images_that_no_algorithm_sees_are_refused(algorithm: str) -> None:
    with pytest.raises(ValidationError, match=f"calibration_images: not for {algorithm}, which sees no images"):
        WeightOnlyOptions(algorithm=algorithm, calibration_images=16)
    assert WeightOnlyOptions(algorithm="gptq", calibration_images=16)
