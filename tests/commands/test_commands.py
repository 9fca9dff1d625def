"""Every command: help with examples, JSON for programs, and the figures that are promised."""

import json
import math
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import onnx
import pytest
import torch
from command_line import Command

from detpress.commands.options import print_json
from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.darknet import WeightsHeader, write_model
from detpress.detector.form import Form
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.half import half_network
from detpress.voc.digits import CLASSES

FIXTURES = Path(__file__).parents[3] / "shared/fixtures/voc-eval"
COMMANDS = (
    ("run",),
    ("validate",),
    ("evaluate",),
    ("detect",),
    ("export",),
    ("import",),
    ("model",),
    ("plugins",),
    ("plugins", "new"),
    ("encodings",),
    ("layers",),
    ("objectives",),
    ("recipes",),
    ("data", "ls"),
    ("data", "get"),
    ("store", "ls"),
    ("store", "gc"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_examples(detpress: Command, command: tuple[str, ...]) -> None:
    said = detpress(*command, "--help")
    assert said.code == 0
    examples = [line for line in said.out.splitlines() if line.strip().startswith(f"detpress {' '.join(command)}")]
    assert examples
    assert "--json" in said.out


def test_the_version_is_that_of_the_package(detpress: Command) -> None:
    assert detpress("--version").out == f"detpress {version('detpress')}\n"


def test_the_help_names_every_command(detpress: Command) -> None:
    said = detpress("--help")
    assert said.code == 0
    assert all(f"\n  {command[0]} " in said.out for command in COMMANDS)
    assert "Exit codes: 0 done, 1 the work failed, 2 the input was wrong" in said.out


@pytest.mark.parametrize(
    ("arguments", "parameters", "gmacs"),
    [
        (("yolov3", "--classes", 20, "--image-size", 416), 61_626_049, 32.714),
        (("yolov3", "--classes", 20, "--image-size", 320), 61_626_049, 19.357),
        (("yolov3", "--classes", 80), 61_949_149, 32.932),
        (("yolov3-tiny", "--classes", 80), 8_852_366, None),
        (("yolov3-spp", "--classes", 80), 62_998_749, None),
    ],
)
def test_published_networks_have_the_published_size(
    detpress: Command, arguments: tuple[object, ...], parameters: int, gmacs: float | None
) -> None:
    said = detpress("model", *arguments, "--json")
    assert said.code == 0
    assert said.json["parameters"] == parameters == sum(layer["parameters"] for layer in said.json["layers"])
    assert gmacs is None or round(said.json["macs"] / 1e9, 3) == gmacs
    text = detpress("model", *arguments).out
    assert f"{parameters:,} parameters, {said.json['macs'] / 1e6:,.1f} M MACs at" in text


def test_the_model_of_a_bundle(detpress: Command, bundle: Path) -> None:
    parameters = sum(parameter.numel() for parameter in load_bundle(bundle).network.parameters())
    assert detpress("model", bundle, "--json").json["parameters"] == parameters


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures are not at ../shared/fixtures/voc-eval")
@pytest.mark.parametrize("name", ["blood-cells", "everyday", "voc20-small"])
def test_evaluate_gives_what_the_reference_gives(detpress: Command, name: str) -> None:
    expected = json.loads((FIXTURES / name / "expected.json").read_text())
    assert len(expected) == 4
    for measure, reference in expected.items():
        iou, average = measure.removeprefix("iou").split("_")
        protocol = {"11point": "voc07", "area": "voc10"}[average]
        options = ("--protocol", protocol, "--iou", iou, "--json")
        said = detpress("evaluate", "--results", FIXTURES / name, "--data", FIXTURES / name, *options)
        assert said.code == 0, said.err
        assert said.json["protocol"] == f"{protocol}@{iou}+1px"
        assert said.json["map"] == pytest.approx(reference["map"], abs=1e-9, rel=0)
        assert said.json["ap"] == pytest.approx(reference["ap"], abs=1e-9, rel=0)


def test_evaluate_and_detect_of_a_bundle(detpress: Command, workplace: Path, bundle: Path) -> None:
    said = detpress("evaluate", bundle, "--data", "digits", "--json")
    assert said.code == 0, said.err
    assert set(said.json["ap"]) | set(said.json["left_out"]) <= set(CLASSES)
    assert "mean" in detpress("evaluate", bundle, "--data", "digits", "--protocol", "coco").out
    image = "digits/JPEGImages/000011.jpg"
    said = detpress("detect", bundle, image, "--score", "0.2", "--json")
    assert said.code == 0, said.err
    assert said.json == json.loads((workplace / "detections/boxes.json").read_text())
    assert [entry["image"] for entry in said.json] == [image]
    for found in said.json[0]["objects"]:
        assert found["class"] in CLASSES
        assert found["score"] >= 0.2
        assert 0 <= found["box"][0] <= found["box"][2] <= 160
    assert (workplace / "detections/000011.png").is_file()


def test_a_bundle_goes_to_darknet_and_back_and_to_onnx(detpress: Command, workplace: Path, bundle: Path) -> None:
    said = detpress("export", bundle, "--to", "darknet", "--out", "tiny.cfg", "--json")
    assert said.code == 0, said.err
    assert said.json["largest_difference"] == 0.0
    assert said.json["usual"]
    Path("tiny.names").write_text("".join(f"{name}\n" for name in CLASSES))
    said = detpress("import", "tiny.cfg", "tiny.weights", "--classes", "tiny.names", "--out", "back", "--json")
    assert said.json == {
        "bundle": "back",
        "architecture": "tiny",
        "image_size": 64,
        "resize": "letterbox",
        "notes": ["images are letterboxed (keep their proportions), as letter_box=1 says"],
    }
    ours, theirs = load_bundle(bundle).network.state_dict(), load_bundle(Path("back")).network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "num_batches_tracked" not in name)
    torch.save({"model": ours}, "tiny.pth")
    Path("obj.data").write_text("classes = 10\nnames = data/tiny.names\n")
    said = detpress("import", "tiny.cfg", "tiny.pth", "--classes", "obj.data", "--out", "again", "--json")
    assert load_bundle(Path("again")).architecture.classes == tuple(CLASSES)
    assert said.json["notes"][-1] == "state dict 'model': 13 convolutions matched by order and shape"
    theirs = load_bundle(Path("again")).network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "num_batches_tracked" not in name)
    said = detpress("export", bundle, "--to", "onnx", "--opset", "13", "--out", "tiny.onnx", "--json")
    assert said.json["largest_difference"] < 1e-4
    assert onnx.load("tiny.onnx").opset_import[0].version == 13


def test_an_export_and_an_import_that_are_stopped_leave_nothing_and_can_be_done_again(
    detpress: Command, workplace: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("tiny.names").write_text("".join(f"{name}\n" for name in CLASSES))
    before = sorted(workplace.iterdir())

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    for kind, out in (("onnx", "tiny.onnx"), ("openvino", "tiny.xml"), ("darknet", "tiny.cfg")):
        with monkeypatch.context() as patch:  # all is written, and to be compared
            patch.setattr("detpress.runtimes.export._difference", stopped)
            assert detpress("export", bundle, "--to", kind, "--out", out).code == 2
        assert sorted(workplace.iterdir()) == before
    assert detpress("export", bundle, "--to", "darknet", "--out", "tiny.cfg").code == 0
    before = sorted(workplace.iterdir())
    arguments = ("import", "tiny.cfg", "tiny.weights", "--classes", "tiny.names", "--out", "back")
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.sha256", stopped)
        assert detpress(*arguments).code == 2
    assert sorted(workplace.iterdir()) == before
    assert detpress(*arguments).code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("onnx", "--opset", "12"), "--opset 12: expected a number from 13 to 23"),
        (("torch", "--opset", "17"), "--opset 17: a file of torch has none; expected --to onnx"),
    ],
)
def test_an_opset_that_cannot_be_written_is_refused(
    detpress: Command, workplace: Path, bundle: Path, options: tuple[str, ...], message: str
) -> None:
    said = detpress("export", bundle, "--to", *options)
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a\0b", ""])
def test_no_export_is_named_after_a_network_that_is_called_like_a_path(
    detpress: Command, workplace: Path, bundle: Path, name: str
) -> None:
    model = load_bundle(bundle)
    model.own_network.architecture = replace(model.architecture, name=name)
    save_bundle(model, Path("odd"))
    before = sorted(workplace.iterdir())
    said = detpress("export", "odd", "--to", "darknet")
    assert said.code == 2
    assert said.err == f"detpress: odd: no file can be called like its network, {name!r}; expected --out FILE\n"
    assert sorted(workplace.iterdir()) == before


def test_an_export_that_is_not_the_bundles_model_ends_with_exit_code_1(
    detpress: Command, workplace: Path, bundle: Path
) -> None:
    """In 16 bits the sums of this network are too large, in the float32 of the file they are not."""
    model = load_bundle(bundle)
    convolutions = (i for i, layer in enumerate(model.architecture.layers) if isinstance(layer, Convolution))
    network = half_network(model.network, "fp16", convolutions)
    network.get_parameter("layers.0.convolution.weight").fill_(6e4)
    save_bundle(model.with_network(network, Form.HALF), Path("half"))
    said = detpress("export", "half", "--to", "onnx", "--out", "half.onnx")
    assert said.code == 1
    assert (
        "half.onnx: is not the bundle's model: its raw maps differ by more than 0.1 of their largest value" in said.err
    )


@pytest.mark.parametrize(
    "header",
    [WeightsHeader(0, 2, 5, 32_013_312), WeightsHeader(0, 1, 0, 7), WeightsHeader(0, 2, 0, 2**63)],
    ids=["of AlexeyAB's Darknet", "short", "large"],
)
def test_weights_that_were_imported_are_exported_byte_for_byte(
    detpress: Command, workplace: Path, header: WeightsHeader
) -> None:
    model = new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0)
    write_model(model.network, Path("tiny.cfg"), Path("tiny.weights"), header)
    Path("tiny.names").write_text("".join(f"{name}\n" for name in CLASSES))
    assert detpress("import", "tiny.cfg", "tiny.weights", "--classes", "tiny.names", "--out", "imported").code == 0
    assert detpress("export", "imported", "--to", "darknet", "--out", "again.cfg").code == 0
    assert Path("again.weights").read_bytes() == Path("tiny.weights").read_bytes()
    assert Path("again.weights").read_bytes()[: header.size] == header.pack()
    Path("again.cfg").unlink()
    said = detpress("export", "imported", "--to", "darknet", "--out", "again.cfg")
    assert (said.code, "again.weights: exists already; expected a new file" in said.err) == (2, True)


def test_weights_that_were_changed_since_their_import_get_a_header_of_their_own(
    detpress: Command, workplace: Path
) -> None:
    model = new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0)
    write_model(model.network, Path("tiny.cfg"), Path("tiny.weights"), WeightsHeader(seen=32_013_312))
    Path("tiny.names").write_text("".join(f"{name}\n" for name in CLASSES))
    assert detpress("import", "tiny.cfg", "tiny.weights", "--classes", "tiny.names", "--out", "imported").code == 0
    chain = ("--set", "model={weights: imported}", "--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]")
    assert detpress("run", "small.yaml", *chain, "--set", "measure.runtimes=[]").code == 0
    for stage, header in (("0-model", WeightsHeader(seen=32_013_312)), ("1-nni.l1norm", WeightsHeader())):
        assert detpress("export", f"runs/small/{stage}/bundle", "--to", "darknet", "--out", f"{stage}.cfg").code == 0
        assert Path(f"{stage}.weights").read_bytes()[: header.size] == header.pack()


def test_validate_prints_the_chain_as_it_would_be(detpress: Command, workplace: Path, cache: Path) -> None:
    rows = detpress("validate", "small.yaml", "--json").json
    assert [(row["plugin"], row["form"]) for row in rows] == [
        ("model", "dense"),
        ("train.scratch", "dense"),
        ("nni.l1norm", "masked"),
        ("nni.speedup", "dense"),
        ("train.finetune", "dense"),
        ("inc.static_int8", "int8"),
    ]
    assert rows[3]["parameters"] < 0.4 * rows[0]["parameters"] == 0.4 * rows[2]["parameters"]
    assert len(rows[2]["layers"]) == 11, "all of the 13 convolutions but the two heads"
    said = detpress("validate", "small.yaml")
    assert said.code == 0
    assert f"{rows[3]['parameters']:,}" in said.out
    assert not (cache / "store").exists()


@pytest.mark.parametrize(
    ("door", "names", "card"),
    [
        ("encodings", {"float32", "int8", "packed"}, ("packed", "\n  bits: Literal[4, 8], required.\n")),
        ("layers", {"convolution", "yolo"}, ("upsample", "in both directions.\n\n  stride: int, default 2.\n")),
        ("objectives", {"detection"}, ("detection", "The detector's own loss")),
    ],
)
def test_what_networks_and_trainings_are_made_of_is_listed_and_shown(
    detpress: Command, door: str, names: set[str], card: tuple[str, str]
) -> None:
    rows = {row["name"]: row for row in detpress(door, "--json").json}
    assert names <= rows.keys()
    assert all(set(row) == {"name", "description", "distribution"} for row in rows.values())
    assert all(f"\n{name} " in "\n" + detpress(door).out for name in names)
    name, said = card
    shown = detpress(door, name)
    assert (shown.code, shown.out.splitlines()[0]) == (0, f"{name}  ({rows[name]['distribution']})")
    assert said in shown.out
    assert detpress(door, name, "--json").json == [rows[name]]
    assert detpress(door, f"{name}s").err == f"detpress: unknown {door[:-1]} '{name}s'; did you mean '{name}'?\n"


def test_plugins_and_recipes_are_listed_and_shown(detpress: Command) -> None:
    listed = detpress("plugins", "--json").json
    keys = {"name", "status", "reason", "accepts", "returns", "engine", "engine_version", "distribution", "remark"}
    assert all(set(row) == keys | {"requirements", "environment"} for row in listed)
    rows = {row["name"]: row for row in listed}
    assert rows["nni.l1norm"]["engine_version"] == "3.0"
    assert (rows["nni.l1norm"]["accepts"], rows["nni.l1norm"]["returns"]) == (["dense"], "masked")
    card = detpress("plugins", "train.finetune").out
    assert "train.finetune  (dense | masked -> the same)" in card
    assert "augmentation.mosaic: float >= 0 <= 1, default 0.0. share of images made of four" in card
    names = [row["name"] for row in detpress("recipes", "--json").json]
    assert {"quickstart", "blood-cells", "voc", "six-compressors"} <= set(names)
    for name in names:
        assert detpress("recipes", name).out.startswith(f"name: {name}\n")
        assert detpress("recipes", name, "--json").json["name"] == name


def test_data_and_store_are_listed_and_emptied(detpress: Command, workplace: Path, cache: Path) -> None:
    rows = {row["name"]: row for row in detpress("data", "ls", "--json").json}
    assert rows["voc2007"]["present"] is False
    assert detpress("store", "ls", "--json").json == []
    model_only = ("run", "small.yaml", "--set", "chain=[]", "--set", "measure.runtimes=[]")
    assert detpress(*model_only).code == 0
    assert [(row["plugin"], row["form"]) for row in detpress("store", "ls", "--json").json] == [("model", "dense")]
    assert detpress("store", "gc", "--json").json["stages"] == 0
    assert detpress("store", "gc", "--days", "0", "--json").json["stages"] == 1
    assert detpress("store", "ls").out.startswith("0 stages")


def test_detect_goes_on_after_a_picture_that_cannot_be_written(
    detpress: Command, workplace: Path, bundle: Path
) -> None:
    images = sorted(Path("digits/JPEGImages").iterdir())[:2]
    blocked, drawn = (Path("found") / f"{image.stem}.png" for image in images)
    blocked.mkdir(parents=True)
    said = detpress("detect", bundle, *images, "--out", "found")
    assert said.code == 1
    assert f"error: {blocked}: cannot be drawn or written: " in said.err
    assert drawn.is_file()
    assert len(json.loads(Path("found/boxes.json").read_text())) == 2


def test_json_has_null_for_what_is_no_finite_number_and_texts_for_dates(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"decibels": [math.inf, -math.inf, math.nan, 1.5], "since": date(2026, 11, 30)})
    assert json.loads(capsys.readouterr().out) == {"decibels": [None, None, None, 1.5], "since": "2026-11-30"}
