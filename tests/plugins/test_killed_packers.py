"""Plugins that train what weights are packed into: killed wherever they are, they go on to the same bits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_training import KilledError, few_digits, same_bits, small_bench

from detpress.contract.plugin import Plugin
from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.options import Options
from detpress.plugins.binary import Connect, ConnectOptions, Net, Weights, Xnor, XnorOptions
from detpress.plugins.clip_q import ClipQ, ClipQOptions
from detpress.plugins.deep_compression import Share, ShareOptions
from detpress.plugins.vector_quantization import Residual, ResidualOptions
from detpress.training import module as training_module
from detpress.training.config import TrainingConfig, TrainingOptions

KILLED_AT = {"searched": 2, "epoch": 3}  # of the layers' searches; of the steps, of which an epoch has two
TRAINING: Any = {"epochs": 2, "training": TrainingOptions(batch_size=4)}
OF_BITS: Any = {"training": TrainingConfig(epochs=2, batch_size=4), "statistics_images": 8}
PLUGINS = [  # and the parts of their work
    (ClipQ(), ClipQOptions(trials=3, images=2, trade_off=1.0, **TRAINING), ["searched", "epoch"]),
    (Share(), ShareOptions(bits=3, pointwise_bits=2, head_bits=4, **TRAINING), ["epoch"]),
    (Residual(), ResidualOptions(words=16, calibration_images=4, codebook="int8", **TRAINING), ["epoch"]),
    (Connect(), ConnectOptions(stochastic=True, **OF_BITS), ["epoch"]),
    (Net(), Net.Config(**OF_BITS), ["epoch"]),
    (Weights(), Weights.Config(**OF_BITS), ["epoch"]),
    (Xnor(), XnorOptions(input_scale=True, **OF_BITS), ["epoch"]),
]


def few_layers(classes: Sequence[str]) -> Architecture:
    head = Convolution(3 * (5 + len(classes)), size=1, batch_normalize=False, activation="linear")
    inner = (Convolution(16, size=3, stride=4), Convolution(16, size=3, stride=2), Convolution(16, size=1), Shortcut(1))
    return Architecture("few", (*inner, head, Yolo(((8, 8), (16, 16), (32, 32)))), tuple(classes), image_size=64)


@pytest.mark.parametrize(("plugin", "options", "parts"), PLUGINS, ids=[type(row[0]).__name__ for row in PLUGINS])
def test_killed_in_each_part_of_its_work_it_ends_in_the_same_bits_which_a_bundle_keeps(
    plugin: Plugin, options: Options, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", 0.0)
    devkit = few_digits(tmp_path, 8)
    model = new_model(few_layers(devkit.classes), seed=0)
    told: list[tuple[str, int]] = []

    def apply(scratch: str, kill: str = "") -> Any:
        """kill: in which part of its work, if at all."""
        told.clear()

        def progress(what: str, done: int, total: int) -> None:
            told.append((what, done))
            if kill and sum(kill in said for said, _ in told) == KILLED_AT[kill]:
                raise KilledError

        bench = small_bench(devkit, model, tmp_path / scratch, progress)
        bench.files = tmp_path / f"{scratch}-files"
        return plugin.apply(model, options, bench)

    whole = apply("whole")
    for part in parts:
        with pytest.raises(KilledError):
            apply("killed", kill=part)
    assert same_bits(apply("killed"), whole)
    assert [done for what, done in told if "epoch" in what] == [3, 4], "from the checkpoint on"
    assert whole.form is plugin.returns
    save_bundle(whole, tmp_path / "bundle")
    assert same_bits(load_bundle(tmp_path / "bundle"), whole)
