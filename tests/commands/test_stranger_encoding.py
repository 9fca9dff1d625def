"""An encoding of another package: one file and one entry point, and it is saved, sized, run, exported and reported."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command_line import Command
from distribution import Install, forget_what_is_installed
from killing import digests, run_killed
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.input_scale import InputScale
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network, with_encoded
from detpress.doors import load_class
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.int8 import Int8
from detpress.encodings.known import ENCODINGS
from detpress.errors import InputError
from detpress.report.layers import layer_states
from detpress.runtimes.export import write_onnx
from detpress.runtimes.opening import open_runtime

ENCODING = '''
from dataclasses import dataclass

import torch

from detpress.api import Encoding, UnpackedConvolution


@dataclass(frozen=True)
class Codebook(Encoding):
    """16 values that the weights of a layer share.

    values: float32 (16,); codes: uint8, two indices a byte, the first in its lower half; bias: float32 (F,).
    """

    stored_bits = 4

    def module(self, like):
        tensors = {
            "values": torch.zeros(16),
            "codes": torch.zeros(-(-like.weight.numel() // 2), dtype=torch.uint8),
            "bias": torch.zeros(like.out_channels),
        }
        return UnpackedConvolution(self, like, tensors)

    def weight(self, tensors, shape):
        codes = tensors["codes"]
        indices = torch.stack([codes & 15, codes >> 4], dim=1).flatten()[: shape.numel()]
        return tensors["values"][indices.long()].reshape(shape)
'''

PLUGIN = """
from detpress.api import Form, Options, Plugin


class Share(Plugin):
    "Gives the weights of all convolutions but the first and the heads 16 values a layer, even ones over their range."

    class Config(Options):
        pass

    accepts = frozenset({Form.DENSE})
    returns = Form.PACKED

    def apply(self, model, config, bench):
        shared = bench.remember_model({}, lambda: share(model))
        bench.progress("layers shared", 1, 1)
        return shared


def share(model):
    import torch
    from codebook_encoding import Codebook

    from detpress.api import folded_weight, with_encoded

    layers = {}
    for i in list(model.encodings)[1:]:
        if i in model.architecture.heads:
            continue
        weight, bias = folded_weight(model.network, i)
        values = torch.linspace(float(weight.min()), float(weight.max()), 16)
        codes = (weight.flatten()[:, None] - values).abs().argmin(dim=1).to(torch.uint8)
        codes = torch.nn.functional.pad(codes, (0, len(codes) % 2))
        layers[i] = Codebook(), {"values": values, "codes": codes[0::2] | codes[1::2] << 4, "bias": bias}
    return model.with_network(with_encoded(model.network, layers), Form.PACKED)
"""


@pytest.fixture
def codebook(install: Install) -> Path:
    """A distribution with the encoding and the plugin, installed; the folder that it lies in."""
    return install(
        "codebooks",
        "1.2",
        {"codebook_encoding.py": ENCODING, "codebook_plugin.py": PLUGIN},
        "[detpress.plugins]\nmine.share = codebook_plugin:Share\n"
        "[detpress.encodings]\nmine.codebook = codebook_encoding:Codebook\n",
    )


def test_a_chain_with_an_encoding_of_another_package(detpress: Command, workplace: Path, codebook: Path) -> None:
    tiny = ("--set", "model.arch=yolov3-tiny", "--set", "measure.memory=false", "--set", "measure.runtimes=[torch]")
    ran = detpress("run", "small.yaml", "--set", "chain=[mine.share]", *tiny, "--out", "out", "--json")
    assert ran.code == 0, ran.err
    before, after = ran.json["stages"]
    assert (after["form"], after["metrics"]["simulated"]) == ("packed", [])
    bundle = workplace / "out/1-mine.share/bundle"
    model = load_bundle(bundle)
    shared = [f"layers.{i}" for i, encoding in model.encodings.items() if encoding.stored_bits == 4]
    assert len(shared) == 13 - 1 - len(model.architecture.heads)

    described = json.loads((bundle / "model.json").read_text())
    assert described["form"] == "packed"
    assert described["encodings"] == {key: {"type": "mine.codebook", "package": "codebooks 1.2"} for key in shared}

    dense = load_bundle(workplace / "out/0-model/bundle")
    assert isinstance(dense.network, Network)
    size = 0
    for i, name in [(i, f"layers.{i}") for i in dense.encodings]:
        weight = dense.network.get_parameter(f"{name}.convolution.weight")
        norm = [tensor for key, tensor in dense.network.state_dict().items() if key.startswith(f"{name}.norm.")]
        if name in shared:
            size += -(-weight.numel() // 2) + 4 * 16 + 4 * len(weight)
        else:
            size += 4 * (weight.numel() + (4 if norm else 1) * len(weight))
        assert i in model.encodings
    assert after["metrics"]["storage_bytes"]["packed"] == size
    assert after["metrics"]["parameters"] < before["metrics"]["parameters"], "BatchNorm is folded in"
    assert detpress("model", bundle, "--json").json["parameters"] == after["metrics"]["parameters"]

    states = layer_states(bundle)
    assert {name for name, state in states.items() if state.bits == 4} == set(shared)
    assert all(state.bits == 32 for name, state in states.items() if name not in shared)

    difference = write_onnx(model, workplace / "shared.onnx")
    assert difference.largest <= 1e-5 * difference.size
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = model.network(image)
        for name in ("onnxruntime", "openvino"):
            for one, other in zip(maps, open_runtime(name, model, 2, 1).run(image), strict=True):
                assert float((one - other).abs().max()) <= 1e-5 * float(one.abs().max())
        weight = model.network.get_buffer(f"{shared[0]}.convolution.decoded")
        assert len(weight.unique()) <= 16
    said = detpress("export", bundle, "--to", "onnx", "--out", "exported.onnx")
    assert said.code == 0, said.err


@pytest.mark.usefixtures("codebook")
def test_a_chain_killed_after_the_encoding_was_made_goes_on_to_the_same_bits(
    detpress: Command, workplace: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the plugin had made, in its own encoding, is read back from the folder in which the stage is made."""
    chain = "chain=[{train.scratch: {epochs: 1, batch_size: 4}}, mine.share]"
    tiny = ("--set", chain, "--set", "model.arch=yolov3-tiny", "--set", "measure={runtimes: [], memory: false}")
    run_killed("mine.share", "layers shared", *tiny)
    assert list((cache / "store/scratch").glob("*/remembered/*/bundle"))
    said = detpress("run", "small.yaml", *tiny, "--out", "killed", "--json")
    assert said.code == 0, said.err
    assert [stage["reused"] for stage in said.json["stages"]] == [True, True, False]
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "another"))
    assert detpress("run", "small.yaml", *tiny, "--out", "undisturbed").code == 0
    assert len(digests(workplace / "killed")) == 3
    assert digests(workplace / "killed") == digests(workplace / "undisturbed")


def test_a_bundle_whose_encoding_is_not_installed_says_what_to_install(
    detpress: Command, workplace: Path, codebook: Path
) -> None:
    tiny = ("--set", "model.arch=yolov3-tiny", "--set", "measure={runtimes: [], memory: false}")
    assert detpress("run", "small.yaml", "--set", "chain=[mine.share]", *tiny, "--out", "out").code == 0
    shutil.rmtree(codebook / "codebooks-1.2.dist-info")
    forget_what_is_installed()
    with pytest.raises(
        InputError, match=r"layers\.2: .*'mine\.codebook' is not installed here; install codebooks 1\.2"
    ):
        load_bundle(workplace / "out/1-mine.share/bundle")


def test_a_finished_stage_is_not_broken_where_its_encoding_is_not_installed(
    detpress: Command, workplace: Path, cache: Path, codebook: Path
) -> None:
    tiny = ("--set", "model.arch=yolov3-tiny", "--set", "measure={runtimes: [], memory: false}")
    command = ("run", "small.yaml", "--set", "chain=[mine.share]", *tiny, "--out", "out")
    assert detpress(*command).code == 0
    entries = codebook / "codebooks-1.2.dist-info/entry_points.txt"
    whole = entries.read_text()
    entries.write_text(whole.replace("[detpress.encodings]", "[elsewhere]"))
    forget_what_is_installed()
    said = detpress(*command)
    assert said.code == 2
    assert "'mine.codebook' is not installed here; install codebooks 1.2" in said.err.splitlines()[-1]
    entries.write_text(whole)
    forget_what_is_installed()
    said = detpress(*command, "--json")
    assert [stage["reused"] for stage in said.json["stages"]] == [True, True]


NOT_ITS_OWN = [
    ({"values": torch.zeros(8)}, "values (Codebook) is float32 [8], the network takes float32 [16]"),
    ({"values": torch.zeros(16).half()}, "values (Codebook) is float16 [16], the network takes float32 [16]"),
    ({"codes": None}, "codes (Codebook) is missing, the network takes uint8 [9]"),
    ({"extra": torch.zeros(3)}, "extra (Codebook) is float32 [3], the network takes no such tensor"),
]


@pytest.mark.usefixtures("codebook")
@pytest.mark.parametrize(("change", "message"), NOT_ITS_OWN)
def test_tensors_that_are_not_those_of_the_encoding_are_one_sentence(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    """Where they are given, where a module that was changed by hand is saved, and where they are read."""
    encoding = load_class("mine.codebook", ENCODINGS)()
    model = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.0625), seed=0)
    assert isinstance(model.network, Network)
    good = {"values": torch.zeros(16), "codes": torch.zeros(9, dtype=torch.uint8), "bias": torch.zeros(2)}
    wrong = {name: tensor for name, tensor in (good | change).items() if tensor is not None}
    layer, said = 2, rf"layers\.2\.convolution\.{re.escape(message)}"
    with pytest.raises(InputError, match=f"^{said}$"):
        with_encoded(model.network, {layer: (encoding, wrong)})

    encoded = model.with_network(with_encoded(model.network, {layer: (encoding, good)}), Form.PACKED)
    save_bundle(encoded, tmp_path / "bundle")
    convolution = encoded.network.get_submodule(f"layers.{layer}.convolution")
    for name, tensor in change.items():
        if tensor is None:
            del convolution._buffers[name]
        else:
            convolution.register_buffer(name, tensor)
    with pytest.raises(InputError, match=f"^{said}$"):
        save_bundle(encoded, tmp_path / "altered")
    assert not (tmp_path / "altered").exists()

    tensors = safetensors.torch.load_file(tmp_path / "bundle/weights.safetensors")
    for name in good:
        del tensors[f"layers.{layer}.convolution.{name}"]
    tensors |= {f"layers.{layer}.convolution.{name}": tensor for name, tensor in wrong.items()}
    safetensors.torch.save_file(tensors, tmp_path / "bundle/weights.safetensors")
    files = ("model.json", "weights.safetensors")
    sums = [f"{hashlib.sha256((tmp_path / 'bundle' / file).read_bytes()).hexdigest()}  {file}\n" for file in files]
    (tmp_path / "bundle/SHA256SUMS").write_text("".join(sums))
    with pytest.raises(InputError, match=rf"weights\.safetensors: {said}$"):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('            "bias": torch.zeros(like.out_channels),\n', "", "keeps no tensor `bias`; expected float32 [2]"),
        (".reshape(shape)", "", "stands for weights [18]; expected [2, 1, 3, 3]"),
    ],
)
def test_an_encoding_that_makes_no_convolution_is_not_saved(
    before: str, after: str, message: str, install: Install, tmp_path: Path
) -> None:
    source = ENCODING.replace(before, after)
    entries = "[detpress.encodings]\nmine.codebook = codebook_encoding:Codebook\n"
    install("codebooks", "1.2", {"codebook_encoding.py": source}, entries)
    encoding = load_class("mine.codebook", ENCODINGS)()
    network = Network(build_architecture("yolov3-tiny", ["cat"], 64, width=0.0625), {2: encoding})
    with pytest.raises(InputError, match=re.escape(f"layers.2.convolution (Codebook) {message}")):
        save_bundle(Model(network), tmp_path / "bundle")


def test_an_encoding_without_an_entry_point_is_not_saved(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Own(Int8):
        pass

    model = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.0625), seed=0)
    model = model.with_network(Network(model.architecture, {0: Own(InputScale(0.1, 0))}), Form.INT8)
    with pytest.raises(InputError, match=r"could not be read again: expected an entry point of detpress\.encodings"):
        save_bundle(model, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
