"""What a plugin is told of its model is what the recipe's table will show."""

import logging
from pathlib import Path

import pytest
import torch

from detpress.adapters.inc import Scheme, quantize_static
from detpress.builtin import find_bundle
from detpress.detector.form import Form
from detpress.encodings.bundle import load_bundle
from detpress.measure.metrics import measure_model
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.voc.devkit import open_devkit
from detpress.voc.digits import write_digits


def test_an_int8_model_is_scored_in_the_runtime_that_the_recipe_scores_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in PyTorch, whose forward pass is taken away from the model."""
    log = logging.getLogger("tests.workbench")
    dense = load_bundle(find_bundle("builtin:digits"))
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    network = quantize_static(dense.network, dense.architecture, images, Scheme(), (), log)
    model = dense.with_network(network, Form.INT8)
    write_digits(tmp_path / "digits", {"train": 1, "val": 4, "test": 1})
    devkit = open_devkit(tmp_path / "digits", dense.architecture.classes)
    measure = Measure(runtimes=["onnxruntime"], threads=1, memory=False)
    bench = StageWorkbench(0, tmp_path, log, lambda *_: None, devkit, Data(root=str(tmp_path)), measure)

    def forward(images: torch.Tensor) -> None:
        raise AssertionError("computed in PyTorch")

    monkeypatch.setattr(network, "forward", forward)
    shown = measure_model(model, tmp_path / "digits", devkit, "val", measure, tmp_path / "results", lambda *_: None)
    assert bench.evaluate(model) == shown["map"]
    assert shown["map_runtime"] == "onnxruntime"


def test_a_file_is_kept_in_the_stage_and_nowhere_else(tmp_path: Path) -> None:
    architecture = load_bundle(find_bundle("builtin:digits")).architecture
    write_digits(tmp_path / "digits", {"train": 1, "val": 1, "test": 1})
    devkit, data = open_devkit(tmp_path / "digits", architecture.classes), Data(root=str(tmp_path))
    log = logging.getLogger("tests.workbench")
    bench = StageWorkbench(0, tmp_path, log, lambda *_: None, devkit, data, Measure(), files=tmp_path / "files")
    assert bench.keep("table.csv") == tmp_path / "files/table.csv"
    for name in ("", "..", "../up.csv", "down/table.csv", "/away.csv"):
        with pytest.raises(ValueError, match="expected the name of a file, without folders"):
            bench.keep(name)
