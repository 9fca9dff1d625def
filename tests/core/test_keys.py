"""A stage's key has all that decides the stage, and nothing else."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distribution import Install, forget_what_is_installed

from detpress.builtin import find_bundle
from detpress.detector.folding import folded_weight
from detpress.detector.network import Network, with_encoded
from detpress.doors import load_class
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.known import ENCODINGS
from detpress.errors import InputError
from detpress.options import Options
from detpress.plugins.inc_autotune import Autotune, AutotuneOptions
from detpress.plugins.nni_search import NAS
from detpress.plugins.nni_search_space import NASOptions
from detpress.recipe.file import read_recipe
from detpress.recipe.sections import ModelSource
from detpress.run.application import NOT_REPEATABLE
from detpress.run.chain import Chain
from detpress.run.initial_model import initial_model
from detpress.run.keys import PACKAGES, VERSIONS, chain_keys, chosen, stage_key
from detpress.run.store import Store
from detpress.training.process import seeded
from detpress.voc.named import open_data

HALVE = """
from detpress.contract.plugin import Plugin
from detpress.options import Options
from detpress.detector.form import Form
from stranger_keys.factor import FACTOR


class Halve(Plugin):
    "Halves the weights, or makes those of another bundle its own."

    class Config(Options):
        table: str | None = None
        borrowed: str | None = None
        layers: set[str] = set()
        limited: bool = False

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def repeats(self, config):
        return not config.limited

    def apply(self, model, config, bench):
        import copy
        import torch

        network = copy.deepcopy(bench.load(config.borrowed).network if config.borrowed else model.network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= FACTOR
        return model.with_network(network)
"""

# Classes that are called as the doors by which they come.
THIRD = """
from dataclasses import dataclass

from detpress.api import Layer, Objective
from detpress.detector.float32 import FoldedFloat32


@dataclass(frozen=True)
class encodings(FoldedFloat32):
    pass


@dataclass(frozen=True)
class layers(Layer):
    def given(self, taken):
        return taken[0]


class objectives(Objective):
    pass
"""


@pytest.fixture
def stranger(install: Install) -> Path:
    """The package of another distribution, which brings the plugin `stranger.halve`."""
    sources = {"__init__.py": "", "halve.py": HALVE, "factor.py": "FACTOR = 0.5\n"}
    folder = install(
        "stranger_keys",
        "1.0",
        {f"stranger_keys/{file}": text for file, text in sources.items()},
        "[detpress.plugins]\nstranger.halve = stranger_keys.halve:Halve\n",
    )
    return folder / "stranger_keys"


@pytest.fixture
def key(tmp_path: Path) -> Callable[..., str]:
    def key_of(plugin: str, options: str = "{}", data: str = "", measure: str = "{}") -> str:
        return stage_key(
            ["parent"], (recipe := read(tmp_path, plugin, options, data, measure)).chain[0], recipe, "data"
        )

    return key_of


def read(folder: Path, plugin: str, options: str = "{}", data: str = "", measure: str = "{}") -> Any:
    path = folder / "recipe.yaml"
    path.write_text(
        f'name: keys\ndata: {{root: "builtin:digits"{data}}}\nmodel: {{arch: yolov3, width: 0.0625, image_size: 96}}\n'
        f"chain: [{{{plugin}: {options}}}]\nmeasure: {measure}\n"
    )
    return read_recipe(path)


class Silent:
    def waiting(self) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


def made(tmp_path: Path, options: str) -> dict[str, Any]:
    """The record of the stage that `stranger.halve` gives, made but not measured."""
    recipe, store = read(tmp_path, "stranger.halve", options), Store(tmp_path / "store")
    chain = Chain(recipe, open_data(recipe.data.root, None), store, Silent())  # type: ignore[arg-type]
    chain.made(0)
    chain.made(1)
    return json.loads((store.stage(chain.keys[1]) / "stage.json").read_text())


def test_what_is_at_its_default_is_not_in_the_key(key: Callable[..., str]) -> None:
    plain = key("nni.l1norm", "{sparsity: 0.5}")
    assert key("nni.l1norm", "{sparsity: 0.25}") != plain
    assert key("train.finetune", "{epochs: 2}") == key("train.finetune", "{epochs: 2, augmentation: {mosaic: 0.0}}")
    assert key("train.finetune", "{epochs: 2}") != key("train.finetune", "{epochs: 2, augmentation: {mosaic: 0.5}}")
    assert key("nni.l1norm", "{sparsity: 0.5}", ", val: val, bad_boxes: skip") == plain
    assert key("nni.l1norm", "{sparsity: 0.5}", ", bad_boxes: refuse") != plain
    trained = key("train.finetune", "{epochs: 2}")
    assert key("train.finetune", "{epochs: 2, choose: last}") == trained
    assert key("train.finetune", "{epochs: 2, choose: best}") != trained


def test_an_option_that_a_new_version_adds_changes_no_key() -> None:
    class Old(Options):
        rate: float = 0.5

    class New(Old):
        gamma: float = 2.0

    assert chosen(Old(rate=0.1)) == chosen(New(rate=0.1)) != chosen(New(rate=0.1, gamma=1.0))


def test_sets_are_sorted_wherever_they_are() -> None:
    class Layers(Options):
        layers: frozenset[str]
        by_name: dict[str, set[int]]

    names = [f"layers.{number}" for number in range(20)]
    assert chosen(Layers(layers=frozenset(names), by_name={"a": {16, 8, 0}})) == {
        "layers": sorted(names),
        "by_name": {"a": [0, 16, 8]},
    }


@pytest.mark.parametrize("part", ["trainer", "loss", "augmentation", "training set", "images"])
def test_another_version_of_a_part_of_the_trainer_is_another_stage(
    part: str, key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key("train.finetune", "{epochs: 1}")
    monkeypatch.setitem(VERSIONS, part, VERSIONS[part] + 1)
    assert key("train.finetune", "{epochs: 1}") != before


def test_lightning_and_torchvision_are_in_the_key_by_their_version(
    key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key("train.finetune", "{epochs: 1}")
    for package in PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(
                "detpress.run.keys.version", lambda name, other=package: version(name) + "x" * (name == other)
            )
            assert key("train.finetune", "{epochs: 1}") != before


def test_the_kind_of_device_and_what_auto_means_there_are_in_the_key(
    key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detpress.run.keys.training.automatic_precision", lambda gpu: "32-true")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    on_cpu = key("train.finetune", "{epochs: 1}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    on_gpu = key("train.finetune", "{epochs: 1}")
    monkeypatch.setattr("detpress.run.keys.training.automatic_precision", lambda gpu: "bf16-mixed")
    assert len({on_cpu, on_gpu, key("train.finetune", "{epochs: 1}")}) == 3


def test_the_number_of_threads_is_in_no_key_but_in_the_stages_record(
    key: Callable[..., str], stranger: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    before = key("stranger.halve")
    try:
        torch.set_num_threads(threads + 1)
        assert key("stranger.halve") == before
        assert made(tmp_path, "{}")["threads"] == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_an_edited_file_of_a_strangers_package_is_another_stage(key: Callable[..., str], stranger: Path) -> None:
    before = key("stranger.halve")
    (stranger / "notes.txt").write_text("no code")
    assert key("stranger.halve") == before
    (stranger / "factor.py").write_text("FACTOR = 0.25\n")
    assert key("stranger.halve") != before


@pytest.mark.parametrize("door", ["encodings", "layers", "objectives"])
def test_what_a_strangers_plugin_finds_of_third_packages_is_in_its_key(
    door: str, key: Callable[..., str], stranger: Path, install: Install
) -> None:
    alone, built_in = key("stranger.halve"), key("nni.l1norm", "{sparsity: 0.5}")
    third = install(
        "third", "1.0", {"third_package.py": THIRD}, f"[detpress.{door}]\nthird.own = third_package:{door}\n"
    )
    with_third = key("stranger.halve")
    assert key("stranger.halve") == with_third != alone
    (third / "third_package.py").write_text(THIRD + "# changed\n")
    assert key("stranger.halve") not in (alone, with_third)
    assert key("nni.l1norm", "{sparsity: 0.5}") == built_in, "detpress's own plugins use nothing of others"


def test_an_encoding_of_the_plugins_own_package_adds_nothing_to_its_key(
    key: Callable[..., str], stranger: Path
) -> None:
    before = key("stranger.halve")
    (stranger / "third_package.py").write_text(THIRD)
    whole = key("stranger.halve")
    entries = stranger.parent / "stranger_keys-1.0.dist-info/entry_points.txt"
    entries.write_text(entries.read_text() + "[detpress.encodings]\nown.same = stranger_keys.third_package:encodings\n")
    forget_what_is_installed()
    assert key("stranger.halve") == whole != before


def test_the_code_of_an_encoding_in_the_weights_is_in_the_first_key(install: Install, tmp_path: Path) -> None:
    third = install(
        "third", "1.0", {"third_package.py": THIRD}, "[detpress.encodings]\nthird.own = third_package:encodings\n"
    )
    model = load_bundle(find_bundle("builtin:digits"))
    assert isinstance(model.network, Network)
    weight, bias = folded_weight(model.network, 0)
    encoding = load_class("third.own", ENCODINGS)()
    encoded = with_encoded(model.network, {0: (encoding, {"weight": weight, "bias": bias})})
    save_bundle(model.with_network(encoded), tmp_path / "bundle")
    recipe = read(tmp_path, "nni.l1norm", "{sparsity: 0.5}")
    recipe = replace(recipe, model=ModelSource(weights=str(tmp_path / "bundle")))

    def first() -> str:
        devkit = open_data(recipe.data.root, None)
        return chain_keys(recipe, devkit, initial_model(recipe, devkit))[0]

    before = first()
    assert first() == before
    (third / "third_package.py").write_text(THIRD + "# changed\n")
    assert first() != before


def test_a_file_that_an_option_names_enters_the_key_by_its_contents(
    key: Callable[..., str], stranger: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    keys = []
    for text in ("1", "2", "1"):
        table.write_text(text)
        keys.append(key("stranger.halve", f"{{table: {table}}}"))
    assert keys[0] == keys[2] != keys[1]


def test_a_word_is_no_file_whatever_lies_in_the_working_directory(
    key: Callable[..., str], stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = key("stranger.halve", "{table: fast}")
    (tmp_path / "fast").write_text("something else")
    assert key("stranger.halve", "{table: fast}") == before


def test_a_bundle_that_the_plugin_does_not_declare_is_refused(stranger: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"stranger\.halve \(.*\): .*builtin:digits, which its method `bundles` does not give"
    ):
        made(tmp_path, '{borrowed: "builtin:digits"}')


def test_a_result_that_time_decides_is_marked(stranger: Path, tmp_path: Path) -> None:
    assert made(tmp_path, "{}")["notes"] == []
    assert made(tmp_path, "{limited: true}")["notes"] == [NOT_REPEATABLE]


def test_limits_of_time_and_latency_do_not_repeat() -> None:
    training = {"epochs": 1}
    options = NASOptions.model_validate({"trial": training, "final": training})
    assert NAS().repeats(options)
    assert not NAS().repeats(options.model_copy(update={"max_latency_ms": {"torch": 5.0}}))
    assert Autotune().repeats(AutotuneOptions())
    assert not Autotune().repeats(AutotuneOptions(minutes=1.0))


def test_threads_and_batch_are_in_the_key_where_latency_decides(key: Callable[..., str]) -> None:
    trainings = "trial: {epochs: 1}, final: {epochs: 1}"
    counted, limited = f"{{{trainings}}}", f"{{{trainings}, max_latency_ms: {{torch: 5.0}}}}"
    for measure in ("{batch: 8}", "{threads: 2}"):
        assert key("nni.nas", counted, measure=measure) == key("nni.nas", counted)
        assert key("nni.nas", limited, measure=measure) != key("nni.nas", limited)


def test_the_seed_reaches_every_global_generator_and_leaves_it_as_it_was() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with seeded(3):
        outside = drawn()
        with seeded(7):
            first = drawn()
        after = drawn()
    with seeded(3):
        assert (drawn(), drawn()) == (outside, after)
    with seeded(7):
        assert drawn() == first
