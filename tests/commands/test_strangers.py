"""Plugins of strangers: plans that are missing, poor or broken, and options that name bundles at any depth."""

import re
from pathlib import Path

import pytest
import torch
from command_line import Command
from distribution import Install

from detpress.recipe.file import read_recipe
from detpress.run.store import Store
from detpress.study.definition import open_studies

STRANGER = """
from dataclasses import replace

from pydantic import model_validator

from detpress.api import BundleName, Form, InputError, Options, Plan, Plugin


class Pruner(Plugin):
    'Masks the first half of the filters of one convolution.'

    class Config(Options):
        pass

    accepts = frozenset({Form.DENSE})
    returns = Form.MASKED

    def apply(self, model, config, bench):
        import copy

        import torch

        from detpress.detector.channels import masks_of_filters
        from detpress.detector.model import apply_masks

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

    class Config(Options):
        pass

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def plan(self, model, config):
        from detpress.detector.architecture import Convolution, build_architecture
        from detpress.detector.model import new_model

        old = model.architecture
        smaller = build_architecture("yolov3-tiny", old.classes, old.image_size, 0.0625)
        names = [f"layers.{i}" for i, layer in enumerate(old.layers) if isinstance(layer, Convolution)]
        return Plan(tuple(names), new_model(smaller, 0))

    def apply(self, model, config, bench):
        return self.plan(model, config).model


class Prints(Plugin):
    'Writes to the standard output in every way there is.'

    class Config(Options):
        pass

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def apply(self, model, config, bench):
        import copy
        import ctypes
        import os

        print("by python")
        os.write(1, b"by descriptor\\n")
        ctypes.CDLL(None).printf(b"by the C library\\n")
        os.system("echo by a child process")
        network = copy.deepcopy(model.network)
        next(network.parameters()).data.mul_(0.5)
        return model.with_network(network)


class Gives(Plugin):
    'Gives what is no model that could be kept.'

    class Config(Options):
        what: str

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def apply(self, model, config, bench):
        import copy

        import torch

        from detpress.detector.network import Network
        from detpress.detector.model import new_model
        from detpress.encodings.half import half_network

        class Own(Network):
            pass

        new = replace(model, network=copy.deepcopy(model.network))
        first = next(new.network.parameters()).data
        first.mul_(0.5)
        match config.what:
            case "nothing":
                return None
            case "given model changed":
                next(model.network.parameters()).data.mul_(0.5)
            case "other classes":
                return new_model(replace(model.architecture, classes=tuple("abcdefghij")), 0)
            case "other size":
                return new_model(replace(model.architecture, image_size=96), 0)
            case "not finite":
                first[0] = torch.nan
            case "class of its own":
                new.network.__class__ = Own
            case "another form":
                return replace(model, network=half_network(new.network, "bf16", [0]))
            case "another module":
                new.network.extra = torch.nn.Linear(2, 2)
            case "other widths":
                convolution = new.network.get_submodule("layers.4.convolution")
                convolution.weight = torch.nn.Parameter(convolution.weight[:1])
        return new


class Asks(Plugin):
    'Uses what the workbench has, and tells what it found.'

    class Config(Options):
        teachers: list[dict[str, BundleName]] = []
        words: str = ""

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def apply(self, model, config, bench):
        import copy

        import torch

        score = bench.evaluate(model)
        assert score == sum(score.evaluation.ap.values()) / len(score.evaluation.ap)
        for see in (bench.devkit.image_set, lambda name: bench.evaluate(model, name),
                    lambda name: bench.training_set(model.architecture, name)):
            try:
                see("test")
            except InputError:
                continue
            raise AssertionError("the test set was seen")
        gradients = bench.gradients(model, 3)
        assert all(torch.equal(gradients[name], again) for name, again in bench.gradients(model, 3).items())
        one, squares = bench.gradients(model, 1), bench.gradients(model, 1, squared=True)
        assert all(torch.equal(one[name].square(), square) for name, square in squares.items())
        steps = torch.stack([gradient.abs().max() for gradient in gradients.values()])
        bench.figure("largest_gradient", float(steps.max()))

        def changed():
            network = copy.deepcopy(model.network)
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter.sub_(0.001 * gradients[name])
            return model.with_network(network)

        first = bench.remember_model({"what": "one step"}, changed)
        assert bench.remember_model({"what": "one step"}, None).network is not first.network
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(torch.get_num_threads() + 1)
        return first


class NoOptions(Pruner):
    Config = dict


class FormAsText(Pruner):
    returns = "masked"


class Wordless(Pruner):
    def apply(self, model, config, bench):
        class WordlessError(Exception):
            def __str__(self):
                raise ValueError

        raise WordlessError


class Vague(Pruner):
    def plan(self, model, config):
        return Plan(None, model)


class Picky(Pruner):
    class Config(Options):
        @model_validator(mode="after")
        def in_the_table(self):
            raise KeyError("no such\\nentry")


class Unsure(Pruner):
    def trains(self, config):
        raise RuntimeError("who knows")


class Particular(Pruner):
    def apply(self, model, config, bench):
        class ParticularError(InputError):
            def __init__(self, option, value):
                super().__init__(f"{option}: {value} is not to my taste")

        raise ParticularError("sparsity", 0.5)


class Committee(Plugin):
    'Learns from several teachers.'

    class Config(Options):
        teachers: list[dict[str, str]]

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def bundles(self, config):
        return tuple(teacher["bundle"] for teacher in config.teachers)

    def apply(self, model, config, bench):
        raise NotImplementedError
"""


@pytest.fixture
def strangers(install: Install) -> None:
    """A distribution with these plugins, installed."""
    kinds = re.findall(r"^class (\w+)", STRANGER, re.MULTILINE)
    entries = "".join(f"mine.{kind.lower()} = stranger_with_plans:{kind}\n" for kind in kinds)
    install("stranger", "1.2", {"stranger_with_plans.py": STRANGER}, f"[detpress.plugins]\n{entries}")


@pytest.mark.usefixtures("strangers")
def test_a_pruner_without_a_plan_can_be_followed_by_speedup(detpress: Command, workplace: Path) -> None:
    chain = ["--set", "chain=[mine.pruner, nni.speedup]"]
    said = detpress("validate", "small.yaml", *chain)
    assert (said.code, said.out.count("not known")) == (0, 1)
    assert "not known: what mine.pruner leaves" in said.out
    rows = detpress("validate", "small.yaml", *chain, "--json").json
    assert [(row["form"], row["parameters"] is None, row["note"]) for row in rows] == [
        ("dense", False, ""),
        ("masked", True, "not known: what mine.pruner leaves shows when it has run"),
        ("dense", True, "not known: what mine.pruner leaves shows when it has run"),
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
        ("mine.noplan", "the plan of mine.noplan gives no Plan with a Model"),
        ("mine.poor", "the plan of mine.poor gives a dense model"),
        ("mine.vague", "the plan of mine.vague gives no names of layers, or a note that is no text"),
    ],
)
def test_a_plan_that_fails_or_tells_too_little_is_one_line(
    name: str, why: str, detpress: Command, workplace: Path
) -> None:
    rows = detpress("validate", "small.yaml", "--set", f"chain=[{name}, nni.speedup]", "--json").json
    assert (rows[-1]["note"], rows[-1]["parameters"]) == (f"not known: {why}", None)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mine.picky", "its options cannot be checked: KeyError: 'no such\\nentry'"),
        ("mine.unsure", "its `trains` failed: RuntimeError: who knows"),
    ],
)
def test_options_that_a_plugin_fails_to_answer_for_are_refused_at_their_line(
    name: str, why: str, detpress: Command, workplace: Path
) -> None:
    said = detpress("validate", "small.yaml", "--set", f"chain=[{name}]", "--no-data")
    assert (said.code, said.out) == (2, "")
    assert said.err == f"detpress: --set chain=[{name}]: chain[0].{name}: {why}\n"


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("isolated", ["true", "false"])
def test_a_plugins_own_kind_of_error_is_shown_as_the_kind_that_it_is_made_of(
    detpress: Command, workplace: Path, isolated: str
) -> None:
    chain = f"chain=[{{mine.particular: {{}}, isolated: {isolated}}}]"
    said = detpress("run", "small.yaml", "--set", chain, *LIGHT)
    assert said.code == 2
    assert said.err.splitlines()[-1] == "detpress: mine.particular (stranger 1.2): sparsity: 0.5 is not to my taste"


@pytest.mark.usefixtures("strangers")
def test_forms_and_options_are_checked_behind_what_is_not_known(detpress: Command, workplace: Path) -> None:
    said = detpress("validate", "small.yaml", "--set", "chain=[mine.pruner, inc.static_int8]")
    assert said.code == 2
    assert "inc.static_int8: takes a dense model, but after mine.pruner it is masked" in said.err
    said = detpress("validate", "small.yaml", "--set", "chain=[{nni.l1norm: {sparsity: 0.5, exclude: [layers.999]}}]")
    assert said.code == 2
    assert "'layers.999' matches no layer" in said.err


@pytest.mark.usefixtures("strangers")
def test_touched_layers_have_the_names_that_they_had_before_the_step(detpress: Command, workplace: Path) -> None:
    [before, after] = detpress("validate", "small.yaml", "--set", "chain=[mine.removes]", "--json").json
    assert after["layers"] == before["untouched"]
    assert after["untouched"] == []


@pytest.mark.usefixtures("strangers")
def test_every_option_that_names_a_bundle_is_found_beside_the_recipe_at_any_depth(tmp_path: Path) -> None:
    path, copied = tmp_path / "committee.yaml", tmp_path / "elsewhere" / "copied.yaml"
    path.write_text(
        "name: committee\n"
        "data: {root: 'builtin:digits'}\n"
        "model: {weights: 'builtin:digits'}\n"
        "chain:\n"
        "  - mine.committee: {teachers: [{bundle: 'builtin:digits'}, {bundle: one, called: two}]}\n"
    )
    [step] = read_recipe(path).chain
    assert step.config.teachers == [{"bundle": "builtin:digits"}, {"bundle": str(tmp_path / "one"), "called": "two"}]
    [job] = open_studies([str(path)]).jobs
    copied.parent.mkdir()
    copied.write_text(job.text)
    assert read_recipe(copied).chain[0].config == step.config
    [step] = read_recipe(path, ["chain[0].teachers=[{bundle: ../one}]"]).chain
    assert step.config.teachers == [{"bundle": str(Path("../one").absolute())}]


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "gave NoneType where its contract says a Model"),
        ("given model changed", "changed the model that it was given; its contract says a new one"),
        ("other classes", "gave a model of other classes: ('a', 'b', "),
        ("other size", "gave a model of other image_size: 96 where 64 went in"),
        ("not finite", "layers.0.convolution.weight has a number that is not finite"),
        ("another form", "gave a half model where its contract says dense"),
        ("class of its own", "gave a network of the class Own; expected Network"),
        ("another module", "gave a model that no bundle can hold: "),
        ("other widths", "gave a model that no bundle can hold: "),
    ],
)
def test_what_could_not_be_kept_is_no_stage(
    detpress: Command, workplace: Path, cache: Path, what: str, message: str
) -> None:
    light = ["--set", "measure={runtimes: [], memory: false}", "--set", "model.arch=yolov3-tiny"]
    said = detpress("run", "small.yaml", "--set", f"chain=[mine.gives: {{what: {what}}}]", *light)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("detpress: mine.gives (stranger 1.2): ")
    assert message in said.err.splitlines()[-1]
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]


@pytest.mark.usefixtures("strangers")
def test_what_a_plugin_prints_is_in_its_log_and_never_on_the_standard_output(
    detpress: Command, workplace: Path
) -> None:
    light = ["--set", "measure={runtimes: [], memory: false}", "--set", "model.arch=yolov3-tiny"]
    said = detpress("run", "small.yaml", "--set", "chain=[mine.prints]", *light, "--out", "out", "--json")
    assert said.code == 0, said.err
    assert [stage["plugin"] for stage in said.json["stages"]] == ["model", "mine.prints"]
    log = (workplace / "out/1-mine.prints/stage.log").read_text(encoding="utf-8")
    for way in ("by python", "by descriptor", "by the C library", "by a child process"):
        assert f"{way}\n" in log


LIGHT = ["--set", "measure={runtimes: [], memory: false}", "--set", "model.arch=yolov3-tiny"]


@pytest.mark.usefixtures("strangers")
def test_the_workbench_scores_differentiates_and_remembers_but_hides_the_test_set(
    detpress: Command, workplace: Path
) -> None:
    before = torch.get_num_threads()
    said = detpress("run", "small.yaml", "--set", "chain=[mine.asks]", *LIGHT, "--json")
    assert said.code == 0, said.err
    assert said.json["stages"][1]["metrics"]["plugin"]["largest_gradient"] > 0
    assert "plugin" not in said.json["stages"][0]["metrics"]
    found = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    assert found == (torch.float32, before, True), "as they were"
    assert "largest gradient" in detpress("run", "small.yaml", "--set", "chain=[mine.asks]", *LIGHT).out
    best = ["--best", "plugin.largest_gradient", "--where", "plugin.largest_gradient > 0"]
    assert detpress("compare", "small.yaml", "--set", "chain=[mine.asks]", *LIGHT, *best).code == 0


@pytest.mark.usefixtures("strangers")
def test_bundles_are_found_by_their_type_and_equal_texts_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "asks.yaml"
    path.write_text(
        "name: asks\n"
        "data: {root: 'builtin:digits'}\n"
        "model: {weights: 'builtin:digits'}\n"
        "chain: [{mine.asks: {teachers: [{a: one, b: 'builtin:digits'}], words: one}}]\n"
    )
    [step] = read_recipe(path).chain
    one = str(tmp_path / "one")
    assert step.config.model_dump() == {"teachers": [{"a": one, "b": "builtin:digits"}], "words": "one"}
    assert step.plugin.bundles(step.config) == (one, "builtin:digits")


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine.nooptions", "its `Config` is no subclass of detpress.api.Options"),
        ("mine.formastext", "its `returns` is neither a detpress.api.Form nor None"),
    ],
)
def test_a_class_that_is_no_whole_plugin_is_listed_as_broken(
    detpress: Command, workplace: Path, name: str, reason: str
) -> None:
    [row] = [row for row in detpress("plugins", "--json").json if row["name"] == name]
    assert row["status"] == "broken"
    assert row["reason"].startswith(
        f"plugin '{name}' (stranger 1.2) cannot be used: {reason}, at stranger_with_plans.py:"
    )
    said = detpress("validate", "small.yaml", "--set", f"chain=[{name}]", "--no-data")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert reason in said.err


@pytest.mark.usefixtures("strangers")
def test_an_error_without_words_is_one_line(detpress: Command, workplace: Path) -> None:
    said = detpress("run", "small.yaml", "--set", "chain=[mine.wordless]", *LIGHT)
    assert said.code == 1
    what = r"mine.wordless \(stranger 1.2\) failed: WordlessError: its message cannot be read, at \w+.py:\d+; see "
    assert re.search(what, said.err.splitlines()[-1])
