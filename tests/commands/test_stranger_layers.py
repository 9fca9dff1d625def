"""A package of others that brings kinds of layers and an architecture: one file, and an entry point for each."""

import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import Command
from distribution import Install, forget_what_is_installed
from killing import digests, run_killed

from detpress.detector.architecture import build_architecture
from detpress.encodings.bundle import load_bundle

STRANGER = """
from dataclasses import dataclass

import torch
from torch import nn

from detpress.api import AveragePool, Convolution, Design, FeatureMap, Layer, LayerList, ScaleChannels, Shortcut


@dataclass(frozen=True)
class Gain(Layer):
    'Multiplies each channel by a number that is learnt.'

    start: int = 1

    def given(self, taken):
        return taken[0]

    def module(self, taken):
        return Times(taken[0].channels, self.start)

    def macs(self, taken, given):
        return given.channels * given.side**2


class Times(nn.Module):
    def __init__(self, channels, start):
        super().__init__()
        self.gain = nn.Parameter(torch.full((channels, 1, 1), float(start)))

    def forward(self, x):
        return x * self.gain


@dataclass(frozen=True)
class Size(Layer):
    'How far each number is from zero.'

    def given(self, taken):
        return taken[0]

    def module(self, taken):
        return Absolute()

    def channels(self, taken):
        return "passed"


class Absolute(nn.Module):
    def forward(self, x):
        return x.abs()


class Mobile(Design):
    'Depthwise blocks with squeeze and excitation.'

    anchors = ((20, 20), (40, 40), (60, 60))
    anchors_at = 96

    def layers(self, classes, anchors, image_size, width):
        net = LayerList(width)
        net.convolution(64, 3, stride=2)
        net.add(Size())
        for _ in range(3):
            filters = net.filters(128)
            net.add(Convolution(filters, 3, 2, activation="relu6"))
            before = net.add(Gain(2)) if not _ else len(net.layers) - 1
            net.add(Convolution(2 * filters, 1, activation="hard_swish"))
            source = net.add(Convolution(2 * filters, (3, 3), activation="swish", groups=2 * filters))
            net.add(AveragePool())
            net.add(Convolution(4, 1, batch_normalize=False, activation="relu"))
            net.add(Convolution(2 * filters, 1, batch_normalize=False, activation="logistic"))
            net.add(ScaleChannels(source))
            net.add(Convolution(filters, 1, activation="linear"))
            net.add(Shortcut(before))
        net.head(anchors, classes)
        return net.layers


@dataclass(frozen=True)
class Halves(Size):
    'Says that the map stays as it is.'

    def module(self, taken):
        return nn.MaxPool2d(2)


@dataclass(frozen=True)
class Counts(Gain):
    'Says other parameters than it has.'

    def parameters(self, taken):
        return 3


@dataclass(frozen=True)
class Raises(Size):
    'Cannot say what it gives.'

    def given(self, taken):
        raise KeyError("width")


class Wrong(Mobile):
    kind = Halves

    def layers(self, classes, anchors, image_size, width):
        net = LayerList(width)
        net.convolution(64, 3)
        net.add(self.kind())
        net.head(anchors, classes)
        return net.layers


class Counting(Wrong):
    kind = Counts


class Raising(Wrong):
    kind = Raises


@dataclass(frozen=True)
class Passing(Gain):
    'A gain that says that it takes channel by channel.'

    def channels(self, taken):
        return "passed"


class Leaky(Wrong):
    'A network that NNI could take apart, but for the gain.'

    def layers(self, classes, anchors, image_size, width):
        net = LayerList(width)
        net.convolution(64, 3, stride=2)
        net.add(Passing())
        net.convolution(64, 3, stride=2)
        net.head(anchors, classes)
        return net.layers


class Listless(Mobile):
    def layers(self, classes, anchors, image_size, width):
        return None
"""


@pytest.fixture
def package(install: Install) -> Path:
    """The distribution, installed; the folder that it lies in."""
    return install(
        "stranger_layers",
        "1.2",
        {"stranger_layers.py": STRANGER},
        "[detpress.layers]\nmine.gain = stranger_layers:Gain\nmine.size = stranger_layers:Size\n"
        "mine.halves = stranger_layers:Halves\nmine.raises = stranger_layers:Raises\n"
        "mine.counts = stranger_layers:Counts\nmine.passing = stranger_layers:Passing\n"
        "[detpress.architectures]\nmine.mobile = stranger_layers:Mobile\nmine.wrong = stranger_layers:Wrong\n"
        "mine.counting = stranger_layers:Counting\nmine.leaky = stranger_layers:Leaky\n"
        "mine.raising = stranger_layers:Raising\nmine.listless = stranger_layers:Listless\n",
    )


MOBILE = ["--set", "model={arch: mine.mobile, width: 0.0625, image_size: 96}"]
CHAIN = ["--set", "chain=[{train.scratch: {epochs: 1}}, {nni.l1norm: {sparsity: 0.5}}, nni.speedup]"]
QUICKLY = ["--set", "measure={runtimes: [], memory: false}"]


def test_another_packages_network_is_trained_pruned_exported_and_scored(
    detpress: Command, workplace: Path, package: Path
) -> None:
    said = detpress("run", "small.yaml", *MOBILE, *CHAIN, *QUICKLY, "--out", "out", "--json")
    assert said.code == 0, said.err
    _, _, pruned, smaller = said.json["stages"]
    figures = [stage["metrics"] for stage in (pruned, smaller)]
    assert figures[0]["map"] == figures[1]["map"]
    assert figures[1]["parameters"] < 0.7 * figures[0]["parameters"]
    bundle = smaller["bundle"]
    model = load_bundle(Path(bundle))
    counted = detpress("model", bundle, "--json").json
    assert counted["parameters"] == figures[1]["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert [row["type"] for row in counted["layers"]].count("mine.gain") == 1
    filters = {row["index"]: row["channels"] for row in counted["layers"]}
    assert filters[0] == 2, "before what passes on channel by channel half of them go"
    assert filters[2] == 8, "before a kind that does not tell all stay"
    assert detpress("export", bundle, "--to", "onnx", "--out", "mobile.onnx").code == 0
    image = torch.rand(1, 3, 96, 96)
    session = onnxruntime.InferenceSession("mobile.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        [map_16] = model.network(image)
    assert np.allclose(session.run(None, {"images": image.numpy()})[0], map_16, atol=1e-4)
    scored = detpress("evaluate", "mobile.onnx", "--data", "digits", "--json")
    assert scored.json["map"] == pytest.approx(detpress("evaluate", bundle, "--data", "digits", "--json").json["map"])


@pytest.mark.usefixtures("package")
def test_before_a_layer_that_nni_does_not_know_filters_go_all_the_same(detpress: Command, workplace: Path) -> None:
    leaky = ["--set", "model={arch: mine.leaky, width: 0.0625, image_size: 96}"]
    said = detpress("run", "small.yaml", *leaky, *CHAIN, *QUICKLY, "--out", "out", "--json")
    assert said.code == 0, said.err
    _, _, pruned, smaller = said.json["stages"]
    assert pruned["metrics"]["map"] == smaller["metrics"]["map"]
    counted = detpress("model", smaller["bundle"], "--json").json
    assert [row["channels"] for row in counted["layers"][:3]] == [2, 2, 2], "of four"


@pytest.mark.usefixtures("package")
def test_a_chain_of_another_packages_network_that_is_killed_goes_on_to_the_same_bits(
    detpress: Command, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = ["--set", "chain=[{train.scratch: {epochs: 1}}, {train.finetune: {epochs: 2}}]"]
    run_killed("train.finetune", "epoch 2", *MOBILE, *chain, *QUICKLY)
    said = detpress("run", "small.yaml", *MOBILE, *chain, *QUICKLY, "--out", "killed", "--json")
    assert said.code == 0, said.err
    assert [stage["reused"] for stage in said.json["stages"]] == [True, True, False]
    assert "going on from" in (workplace / "killed/2-train.finetune/stage.log").read_text()
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "another"))
    assert detpress("run", "small.yaml", *MOBILE, *chain, *QUICKLY, "--out", "undisturbed").code == 0
    assert len(digests(workplace / "killed")) == 3
    assert digests(workplace / "killed") == digests(workplace / "undisturbed")


def test_what_is_not_installed_any_more_is_said_by_its_name(
    detpress: Command, workplace: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = detpress("run", "small.yaml", *MOBILE, "--set", "chain=[]", *QUICKLY, "--out", "out", "--json")
    bundle = said.json["stages"][0]["bundle"]
    shutil.rmtree(package)
    forget_what_is_installed()
    said = detpress("model", bundle)
    assert said.code == 2
    assert "layer 1: the layer 'mine.size' is not installed here; install stranger_layers 1.2" in said.err
    said = detpress("validate", "small.yaml", *MOBILE)
    assert said.code == 2
    assert "model.arch: unknown architecture 'mine.mobile'" in said.err


def test_the_code_of_a_kind_is_in_the_key(detpress: Command, workplace: Path, package: Path) -> None:
    def key() -> str:
        said = detpress("run", "small.yaml", *MOBILE, "--set", "chain=[]", *QUICKLY, "--json")
        [stage] = said.json["stages"]
        return str(stage["key"])

    first = key()
    assert key() == first
    (package / "stranger_layers.py").write_text(STRANGER.replace("x * self.gain", "x / self.gain"))
    assert key() != first


@pytest.mark.usefixtures("package")
def test_architectures_of_others_are_listed(detpress: Command) -> None:
    rows = {row["name"]: row for row in detpress("model", "--json").json}
    assert rows.keys() >= {"yolov3", "yolov3-spp", "yolov3-tiny"}
    assert rows["mine.mobile"] == {
        "name": "mine.mobile",
        "description": "Depthwise blocks with squeeze and excitation.",
        "distribution": "stranger_layers 1.2",
    }
    assert "mine.gain  (stranger_layers 1.2)" in detpress("layers", "mine.gain").out
    assert build_architecture("mine.mobile", ["cell"], 96, 0.0625).name == "mine.mobile"


@pytest.mark.usefixtures("package")
def test_darknet_has_no_layer_of_others(detpress: Command, workplace: Path) -> None:
    said = detpress("run", "small.yaml", *MOBILE, "--set", "chain=[]", *QUICKLY, "--json")
    said = detpress("export", said.json["stages"][0]["bundle"], "--to", "darknet")
    assert said.code == 2
    assert "layers.1: Darknet has no mine.size layer" in said.err


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("wrong", 1, "layer 1: Halves says 4 channels of 64 x 64, and gives (4, 32, 32)"),
        ("counting", 1, "layer 1: Counts says 3 parameters, and its module has 4"),
        ("raising", 2, "layer 1: Raises failed: KeyError: 'width'"),
        ("listless", 2, "the architecture 'mine.listless' gives no layer list: TypeError: "),
    ],
)
def test_what_another_packages_network_gets_wrong_is_one_line(
    detpress: Command, workplace: Path, name: str, code: int, message: str
) -> None:
    model = f"model={{arch: mine.{name}, width: 0.0625, image_size: 64}}"
    said = detpress("run", "small.yaml", "--set", model, "--set", "chain=[]", *QUICKLY)
    assert said.code == code
    assert message in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


@pytest.mark.parametrize("line", ["channels = 'passed'", "channels: str", "given = FeatureMap(3, 64)"])
def test_a_value_in_the_place_of_a_method_is_refused_where_the_kind_is_found(
    line: str, detpress: Command, install: Install
) -> None:
    source = STRANGER.replace(
        "    def given(self, taken):\n        return taken[0]\n\n    def module", f"    {line}\n\n    def module", 1
    )
    entries = "[detpress.architectures]\nmine.mobile = stranger_layers:Mobile\n"
    install("stranger_layers", "1.2", {"stranger_layers.py": source}, entries)
    said = detpress("model", "mine.mobile")
    assert said.code == 2
    name = re.split(r"\W", line)[0]
    assert f"Gain.{name} is no method; expected one, as Layer.{name} is" in said.err
    assert "architecture 'mine.mobile' (stranger_layers 1.2) cannot be used" in said.err
    assert "broken: architecture 'mine.mobile'" in detpress("model").out, "and others are listed all the same"
