"""`clip_q`: levels within what was searched, and `deep_compression.encode` behind it."""

import csv
from pathlib import Path

import pytest
import torch
from small_training import few_digits, small_bench

from detpress.detector.architecture import build_architecture
from detpress.detector.folding import stored_weight
from detpress.detector.form import Form
from detpress.detector.model import new_model
from detpress.encodings.shared import Shared
from detpress.errors import InputError
from detpress.plugins.clip_q import ClipQ, ClipQOptions
from detpress.plugins.deep_compression import Encode, EncodeOptions
from detpress.recipe.file import read_recipe
from detpress.training.config import TrainingOptions

OPTIONS = ClipQOptions(epochs=1, trials=3, images=2, trade_off=1.0, training=TrainingOptions(batch_size=4))


def test_levels_and_codes(tmp_path: Path) -> None:
    devkit = few_digits(tmp_path, 8)
    model = new_model(build_architecture("yolov3-tiny", devkit.classes, 64, width=0.1), seed=0)
    bench = small_bench(devkit, model, tmp_path / "whole")
    bench.files = tmp_path / "files"
    whole = ClipQ().apply(model, OPTIONS, bench)
    assert whole.form is Form.PACKED
    rows = {int(row["layer"]): row for row in csv.DictReader((tmp_path / "files/clip_q.csv").open())}
    assert rows.keys() == whole.encodings.keys()
    for i, encoding in whole.encodings.items():
        assert isinstance(encoding, Shared)
        assert encoding.sparse
        assert encoding.stored_bits <= int(rows[i]["bits"]) <= 8
        zeros = int((whole.network.get_buffer(f"layers.{i}.convolution.codes") == 0).sum())
        assert zeros == int(rows[i]["zeros"])
        assert zeros == pytest.approx(float(rows[i]["share"]) * int(rows[i]["weights"]), abs=3)
    assert 0 < bench.figures["share_of_zeros"] < 1

    bench = small_bench(devkit, model, tmp_path / "encode")
    bench.files = tmp_path / "files-encoded"
    encoded = Encode().apply(whole, EncodeOptions(), bench)
    for i in whole.encodings:
        assert torch.equal(stored_weight(encoded.own_network, i), stored_weight(whole.own_network, i))


def test_plans_and_what_does_not_fit(tmp_path: Path) -> None:
    model = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.1), seed=0)
    plan = ClipQ().plan(model, OPTIONS.model_copy(update={"exclude": ["layers.0"]}))
    assert plan.model.form is Form.PACKED
    assert len(plan.layers) == len(model.encodings) - 1
    with pytest.raises(InputError, match=r"^exclude: all convolutions"):
        ClipQ().plan(model, ClipQOptions(epochs=1, exclude=["*"]))


def test_a_recipe_says_the_fewest_and_the_most_bits(tmp_path: Path) -> None:
    def recipe(bits: str) -> Path:
        (tmp_path / "small.yaml").write_text(
            "name: small\ndata: {root: 'builtin:digits'}\nmodel: {arch: yolov3-tiny, image_size: 64}\n"
            f"chain:\n  - clip_q: {{epochs: 1, bits: {bits}}}\n"
        )
        return tmp_path / "small.yaml"

    assert read_recipe(recipe("[3, 5]")).chain[0].config.bits == [3, 5]
    for bits in ("[1, 8]", "[2, 9]", "[5, 3]"):
        with pytest.raises(InputError) as error:
            read_recipe(recipe(bits))
        expected = f"expected [fewest, most] from 2 to 8, got {bits}"
        assert str(error.value) == f"{tmp_path / 'small.yaml'}:5: chain[0].clip_q.bits: {expected}"
    with pytest.raises(InputError, match=r"chain\[0\]\.clip_q\.bits: "):
        read_recipe(recipe("[4]"))
