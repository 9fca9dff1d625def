"""`inc.autotune`: the real INC, a scoring function that is known, and a bench that remembers on disk."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from seen_images import let_see
from torch import Tensor

from detpress.adapters import inc_autotune
from detpress.adapters.inc import Scheme, quantize_static
from detpress.detector.architecture import Architecture, Convolution, Yolo, build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.encodings.equalization import equalized
from detpress.encodings.int8 import input_scales
from detpress.errors import StageError
from detpress.measure.sensitivity import measure_sensitivity
from detpress.plugins.inc_autotune import Autotune, AutotuneOptions, SchemeOptions
from detpress.run.store import remember

ALL = 13  # convolutions of YOLOv3-tiny


@dataclass
class Bench:
    """mAP is told by the number of layers in int8; `evaluated` counts how often it was asked for."""

    images: Tensor
    scratch: Path
    map_of: Callable[[int], float]
    evaluated: list[int] = field(default_factory=list)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("tests.inc_autotune"))

    def calibration(self, images: int, or_fewer: bool = False) -> Tensor:
        return self.images[:images]

    def evaluate(self, model: Model) -> float:
        quantized = len(input_scales(model.network))
        self.evaluated.append(quantized)
        return self.map_of(quantized)

    def progress(self, what: str, done: int, total: int) -> None:
        assert 0 <= done <= total

    def remember(self, key: dict[str, Any], compute: Callable[[Path], None]) -> Path:
        return remember(self.scratch, key, compute)


@pytest.fixture(scope="module")
def tiny() -> Model:
    model = new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.125), seed=0)
    model.network.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def separable(images: Tensor) -> Model:
    """What its depthwise convolutions are given has channels of very different ranges."""
    one = (Convolution(16, size=1), Convolution(16, size=3, groups=16))
    head = Convolution(21, size=1, batch_normalize=False, activation="linear")
    layers = (Convolution(8, size=3, stride=2), *one, *one, head, Yolo(((8.0, 8.0), (16.0, 16.0), (32.0, 32.0))))
    model = new_model(Architecture("separable", layers, ("cat", "dog"), image_size=64), seed=0)
    let_see(model.network, images)
    factors = torch.logspace(-1, 1, 16)
    for expanded in (1, 3):
        for name in ("weight", "bias"):
            model.network.get_parameter(f"layers.{expanded}.norm.{name}").data *= factors
        model.network.get_parameter(f"layers.{expanded + 1}.convolution.weight").data /= factors[:, None, None, None]
    model.network.requires_grad_(False)
    return model


def options(**more: Any) -> AutotuneOptions:
    one = {"calibration_images": 4, "sensitivity_images": 2, "schemes": [SchemeOptions()]}
    return AutotuneOptions(**(one | more))


def test_the_first_candidate_that_loses_little_enough_ends_it(tiny: Model, images: Tensor, tmp_path: Path) -> None:
    bench = Bench(images, tmp_path, lambda quantized: 0.8 if quantized == 0 else 0.793)
    model = Autotune().apply(tiny, options(schemes=[SchemeOptions(), SchemeOptions(algorithm="kl")]), bench)
    assert bench.evaluated == [0, ALL]
    assert (model.form, len(input_scales(model.network))) == (Form.INT8, ALL)
    assert "trial 1 loses no more than 1.00%" in model.notes[0]


def test_layers_fall_back_one_by_one_those_that_gain_most_first(tiny: Model, images: Tensor, tmp_path: Path) -> None:
    bench = Bench(images, tmp_path, lambda quantized: 0.8 if quantized <= ALL - 3 else 0.5)
    schemes = [SchemeOptions(), SchemeOptions(full_range=True)]  # for INC the same
    model = Autotune().apply(tiny, options(schemes=schemes), bench)
    assert bench.evaluated == [0, ALL, ALL, ALL - 1, ALL - 2, ALL - 3]
    every = Autotune().apply(tiny, options(tolerable_loss=0.9), Bench(images, tmp_path / "all", lambda _: 0.8))
    order = [
        row.index for row in measure_sensitivity(every.network, tiny.network, images[:2], lambda *_: None).by_gain()
    ]
    assert set(input_scales(every.network)) - set(input_scales(model.network)) == set(order[:3])


def test_what_equalizing_did_is_no_rounding_and_moves_no_layer_forward(
    separable: Model, images: Tensor, tmp_path: Path
) -> None:
    every = Autotune().apply(separable, options(), Bench(images, tmp_path / "all", lambda _: 0.8))
    first, unequalized = (
        measure_sensitivity(every.own_network, parent, images[:2], lambda *_: None).by_gain()[0].index
        for parent in (equalized(separable.own_network, images[:4]), separable.own_network)
    )
    assert first != unequalized
    bench = Bench(images, tmp_path / "one", lambda quantized: 0.5 if quantized == 6 else 0.8)
    model = Autotune().apply(separable, options(), bench)
    assert set(input_scales(every.network)) - set(input_scales(model.network)) == {first}


def test_a_scheme_gives_the_network_that_it_gives_alone_whatever_else_is_tried(
    separable: Model, images: Tensor, tmp_path: Path
) -> None:
    schemes = [SchemeOptions(corrected=False), SchemeOptions(), SchemeOptions(per_channel=False)]
    for number, scheme in enumerate(schemes):
        scores = iter([0.8, *[0.5] * number, 0.8])
        bench = Bench(images, tmp_path / str(number), lambda _, scores=scores: next(scores))
        found = Autotune().apply(separable, options(schemes=schemes), bench).network.state_dict()
        alone = quantize_static(
            separable.network, separable.architecture, images[:4], Scheme(**scheme.model_dump()), (), bench.log
        ).state_dict()
        assert found.keys() == alone.keys()
        assert all(torch.equal(tensor, alone[name]) for name, tensor in found.items()), scheme
    assert bench.evaluated == [0, 6, 6, 6], "in the order in which they are listed"


def test_trials_of_all_schemes_share_one_budget(separable: Model, images: Tensor, tmp_path: Path) -> None:
    schemes = [SchemeOptions(), SchemeOptions(corrected=False), SchemeOptions()]
    bench = Bench(images, tmp_path, lambda quantized: 0.5 if quantized else 0.8)
    Autotune().apply(separable, options(schemes=schemes, trials=2), bench)
    assert bench.evaluated == [0, 6, 6]


def test_where_nothing_meets_the_criterion_the_best_is_kept_and_it_is_said(
    tiny: Model, images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(images, tmp_path, {0: 0.8, ALL: 0.2, ALL - 1: 0.4, ALL - 2: 0.3}.__getitem__)
    model = Autotune().apply(tiny, options(trials=3), bench)
    assert bench.evaluated == [0, ALL, ALL - 1, ALL - 2]
    assert len(input_scales(model.network)) == ALL - 1
    assert model.notes[0].startswith("none of 3 trials loses at most 1.00%; the best is kept: mAP 0.4000")
    assert "0.2000  loss +75.00%" in caplog.text


def test_a_killed_autotune_goes_on_behind_the_trials_it_has(tiny: Model, images: Tensor, tmp_path: Path) -> None:
    def killed(quantized: int) -> float:
        if quantized == ALL - 2:
            raise KeyboardInterrupt
        return 0.8 if quantized == 0 else 0.5

    with pytest.raises(KeyboardInterrupt):
        Autotune().apply(tiny, options(), Bench(images, tmp_path, killed))
    again = Bench(images, tmp_path, lambda _: 0.8)
    model = Autotune().apply(tiny, options(), again)
    assert again.evaluated == [ALL - 2], "what was scored before is not scored again"
    assert len(input_scales(model.network)) == ALL - 2


def test_a_budget_of_time_ends_it_after_the_trial_that_used_it_up(tiny: Model, images: Tensor, tmp_path: Path) -> None:
    bench = Bench(images, tmp_path, lambda quantized: 0.8 if quantized == 0 else 0.5)
    model = Autotune().apply(tiny, options(minutes=1e-9), bench)
    assert bench.evaluated == [0, ALL]
    assert "none of 1 trials" in model.notes[0]


def test_calibration_counts_towards_the_budget_of_time(
    tiny: Model, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def calibrated(*arguments: Any) -> None:
        calibrate(*arguments)
        now[0] += 40

    calibrate = inc_autotune.calibrate_convolutions
    monkeypatch.setattr(inc_autotune, "calibrate_convolutions", calibrated)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    bench = Bench(images, tmp_path, lambda quantized: 0.5 if quantized else 0.8)
    Autotune().apply(tiny, options(minutes=1.0), bench)
    assert bench.evaluated == [0, ALL, ALL - 1]


@pytest.mark.parametrize(("score", "message"), [(0.0, "mAP on the validation images is 0"), (math.nan, "gave NaN")])
def test_a_baseline_that_no_loss_can_be_measured_from_is_an_error(
    tiny: Model, images: Tensor, tmp_path: Path, score: float, message: str
) -> None:
    with pytest.raises(StageError, match=message):
        Autotune().apply(tiny, options(), Bench(images, tmp_path, lambda _: score))
