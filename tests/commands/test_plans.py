"""What `detpress validate` foresees of a chain, with plugins of strangers whose plans are missing, poor or broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command

from detpress import registry

STRANGER = """
from dataclasses import replace

from detpress.plugin import Config, Form, Plan, Plugin


class Pruner(Plugin):
    'Masks the first half of the filters of one convolution.'

    class Config(Config):
        pass

    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED

    def apply(self, model, config, bench):
        import copy

        import torch

        from detpress.detector.channels import masks_of_filters
        from detpress.model import apply_masks

        network = copy.deepcopy(model.network)
        filters = model.architecture.layers[0].filters
        masks = masks_of_filters(network, {0: torch.arange(filters) >= filters // 2})
        apply_masks(network, masks)
        return model.with_network(network, Form.MASKED, masks)


class Poor(Pruner):
    def plan(self, model, config):
        return Plan(("layers.0",), model)


class Broken(Pruner):
    def plan(self, model, config):
        raise KeyError("weights\\nand more")


class NoPlan(Pruner):
    def plan(self, model, config):
        return model


class Removes(Plugin):
    'Gives a network of fewer layers.'

    class Config(Config):
        pass

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def plan(self, model, config):
        from detpress.detector.architecture import Convolution, build_architecture
        from detpress.model import new_model

        old = model.architecture
        smaller = build_architecture("yolov3-tiny", old.classes, old.image_size, 0.0625)
        names = [f"layers.{i}" for i, layer in enumerate(old.layers) if isinstance(layer, Convolution)]
        return Plan(tuple(names), new_model(smaller, 0))

    def apply(self, model, config, bench):
        return self.plan(model, config).model
"""


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with these plugins, installed."""
    folder = tmp_path / "strangers"
    info = folder / "stranger-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "stranger_with_plans.py").write_text(STRANGER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.2\n")
    names = {"prune": "Pruner", "poor": "Poor", "broken": "Broken", "no_plan": "NoPlan", "removes": "Removes"}
    entries = "".join(f"mine.{name} = stranger_with_plans:{kind}\n" for name, kind in names.items())
    (info / "entry_points.txt").write_text(f"[detpress.plugins]\n{entries}")
    monkeypatch.syspath_prepend(folder)
    registry._found.cache_clear()
    yield
    registry._found.cache_clear()


@pytest.mark.usefixtures("strangers")
def test_a_pruner_without_a_plan_can_be_followed_by_speedup(detpress: Command, workplace: Path) -> None:
    chain = ["--set", "chain=[mine.prune, nni.speedup]"]
    said = detpress("validate", "small.yaml", *chain)
    assert (said.code, said.out.count("not known")) == (0, 1)
    assert "not known: mine.prune has no plan" in said.out
    rows = detpress("validate", "small.yaml", *chain, "--json").json
    assert [(row["form"], row["parameters"] is None, row["note"]) for row in rows] == [
        ("dense", False, ""),
        ("masked", True, "not known: mine.prune has no plan"),
        ("dense", True, "not known: mine.prune has no plan"),
    ]
    tiny = ["--set", "model.arch=yolov3-tiny", "--set", "model.width=0.25", "--set", "measure.memory=false"]
    ran = detpress("run", "small.yaml", *chain, *tiny, "--json")
    assert ran.code == 0, ran.err
    before, _, after = (stage["metrics"]["parameters"] for stage in ran.json["stages"])
    assert after < before


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mine.broken", "the plan of mine.broken failed: KeyError: 'weights\\nand more'"),
        ("mine.no_plan", "the plan of mine.no_plan gives no Plan with a Model"),
        ("mine.poor", "the plan of mine.poor gives a dense model"),
    ],
)
def test_a_plan_that_fails_or_tells_too_little_is_one_line(
    name: str, why: str, detpress: Command, workplace: Path
) -> None:
    rows = detpress("validate", "small.yaml", "--set", f"chain=[{name}, nni.speedup]", "--json").json
    assert (rows[-1]["note"], rows[-1]["parameters"]) == (f"not known: {why}", None)


@pytest.mark.usefixtures("strangers")
def test_forms_and_options_are_checked_behind_what_is_not_known(detpress: Command, workplace: Path) -> None:
    said = detpress("validate", "small.yaml", "--set", "chain=[mine.prune, inc.static_int8]")
    assert said.code == 2
    assert "inc.static_int8: takes a dense model, but after mine.prune it is masked" in said.err
    said = detpress("validate", "small.yaml", "--set", "chain=[{nni.l1norm: {sparsity: 0.5, exclude: [layers.999]}}]")
    assert said.code == 2
    assert "'layers.999' matches no layer" in said.err


@pytest.mark.usefixtures("strangers")
def test_touched_layers_have_the_names_that_they_had_before_the_step(detpress: Command, workplace: Path) -> None:
    [before, after] = detpress("validate", "small.yaml", "--set", "chain=[mine.removes]", "--json").json
    assert after["layers"] == before["untouched"]
    assert after["untouched"] == []
