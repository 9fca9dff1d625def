"""Bad input ends in one clear line on stderr and exit code 2; what was finished is kept."""

import hashlib
import io
import math
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import typer
from command_line import Command, Said
from PIL import Image

from detpress.commands.options import no_nan
from detpress.detector.architecture import build_architecture
from detpress.detector.darknet import write_model
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle
from detpress.run.store import Store
from detpress.voc import download
from detpress.voc.digits import CLASSES


def refusal(said: Said) -> str:
    """The one line on stderr, progress aside."""
    assert said.code == 2, said
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("detpress: ")]
    assert len(lines) == 1, said.err
    assert said.err.endswith(f"{lines[0]}\n")
    assert "Traceback" not in said.err
    return lines[0].removeprefix("detpress: ")


@pytest.fixture
def data(workplace: Path, digits: Path) -> Path:
    """The recipe's data set, to be spoilt."""
    (workplace / "digits").unlink()
    shutil.copytree(digits, workplace / "digits")
    return workplace / "digits"


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sparsity", "sparcity", "small.yaml:6: chain[1].nni.l1norm.sparcity: unknown key; did you mean 'sparsity'?"),
        (
            "nni.speedup",
            "nni.sped",
            "small.yaml:7: chain[2]: unknown plugin 'nni.sped'; did you mean 'nni.speedup'?",
        ),
        (
            "sparsity: 0.5",
            "sparsity: 0.5, exclude: [layers.88]",
            "small.yaml:6: chain[1].nni.l1norm: exclude: 'layers.88' matches no layer; did you mean 'layers.8'?",
        ),
        ("0.125", "narrow", "small.yaml:3: model.width: expected a valid number, got 'narrow'"),
        (
            "  - nni.speedup\n  - train.finetune: {epochs: 2, batch_size: 4}\n",
            "",
            "small.yaml:7: chain[2].inc.static_int8: takes a dense model, but after nni.l1norm it is masked",
        ),
        ("root: digits", "root: ../digits", "small.yaml:2: data.root: '../digits' climbs out of the recipe's folder"),
        ("root: digits}", "root: [digits}", "small.yaml:2: not valid YAML: "),
    ],
)
def test_a_mistake_in_the_recipe_is_told_before_anything_is_computed(
    detpress: Command, workplace: Path, cache: Path, command: str, old: str, new: str, message: str
) -> None:
    recipe = workplace / "small.yaml"
    recipe.write_text(recipe.read_text().replace(old, new, 1))
    assert refusal(detpress(command, "small.yaml")).startswith(message)
    assert not (cache / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "quikstart"), "no recipe 'quikstart'; did you mean 'quickstart'?"),
        (("recipes", "six-compresors"), "no recipe 'six-compresors'; did you mean 'six-compressors'?"),
        (("run", "absent.yaml"), "absent.yaml: no such file"),
        (("validate", "claims"), "'claims' is a study: `detpress compare claims` runs it"),
        (("run", "small.yaml", "--set", "sed=1"), "--set sed=1: sed: unknown key; did you mean 'seed'?"),
        (("run", "small.yaml", "--set", "data.root=absent"), "absent: no such folder; expected Pascal VOC's folders"),
        (
            ("run", "small.yaml", "--set", "data.root=builtin:digit"),
            "--set data.root=builtin:digit: data.root: no built-in data set 'builtin:digit'; did you mean ",
        ),
        (
            ("run", "small.yaml", "--set", "model.weights=builtin:digit"),
            "--set model.weights=builtin:digit: model.weights: no shipped bundle 'builtin:digit'; did you mean ",
        ),
        (
            ("run", "small.yaml", "--set", "data.classes=[a, b, a]"),
            "--set data.classes=[a, b, a]: data.classes: class 'a' is named twice, got ",
        ),
        (
            ("run", "small.yaml", "--set", "data.classes=[a, '']"),
            "--set data.classes=[a, '']: data.classes: class 2 has no name, got ",
        ),
        (
            ("run", "small.yaml", "--set", "model.width=1e-300"),
            "--set model.width=1e-300: model.width: expected greater than or equal to 0.001, got 1e-300",
        ),
        (("run", "small.yaml", "--set", "chain[0][epochs]=3"), "--set chain[0][epochs]=3: expected KEY=VALUE, such as"),
        (
            ("run", "small.yaml", "--set", "chain[\u0660].epochs=3"),
            "--set chain[\u0660].epochs=3: expected KEY=VALUE, ",
        ),
        (("run", "/dev/zero"), "/dev/zero: cannot be read: it is a pipe or a device, no plain file"),
        (("run", "digits"), "digits: cannot be read: it is a folder"),
        (
            ("run", "small.yaml", "--set", "model.weights=absent"),
            "--set model.weights=absent: model.weights: absent: not a bundle: model.json cannot be read",
        ),
        (("run", "small.yaml", "--set", "data.test=tset"), "digits: no image set 'tset'; did you mean 'test'?"),
        (
            ("evaluate", "builtin:digits", "--data", "digits", "--split", "tset"),
            "--split: digits: no image set 'tset'; did you mean 'test'?",
        ),
        (
            ("run", "small.yaml", "--out", "small.yaml"),
            "--out small.yaml: cannot be written (File exists); expected a folder",
        ),
        (("evaluate", "--data", "digits"), "evaluate: expected either a BUNDLE or --results DIR"),
        (("evaluate", "absent", "--data", "digits"), "absent: not a bundle: model.json cannot be read"),
        (("evaluate", "--results", "digits", "--data", "digits"), "digits: expected files comp4_det_test_<class>.txt"),
        (("evaluate", "absent", "--data", "digits", "--protocol", "voc7"), "--protocol voc7: did you mean 'voc"),
        (("evaluate", "absent", "--data", "digits", "--iou", "2"), "--iou 2.0: expected a number above 0"),
        (("evaluate", "absent", "--data", "digits", "--runtime", "torh"), "--runtime torh: did you mean 'torch'?"),
        (("detect", "absent", "scene.jpg"), "absent: not a bundle: model.json cannot be read"),
        (("export", "absent", "--to", "onxx"), "--to onxx: did you mean 'onnx'?"),
        (("model", "yolo3"), "unknown architecture 'yolo3'; did you mean 'yolov3'?"),
        (("model", "yolov3", "--image-size", "100"), "image size 100: expected a positive multiple of 32"),
        (("plugins", "nni.l1nrm"), "unknown plugin 'nni.l1nrm'; did you mean 'nni.l1norm'?"),
        (("recipes", "vok"), "no recipe 'vok'; did you mean 'voc'?"),
        (("data", "get", "voc207"), "voc207: no such data set; did you mean 'voc2007'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_with_the_nearest_name(
    detpress: Command, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    said = refusal(detpress(*arguments)).replace(f"{workplace}/", "")
    assert said.startswith(message)


@pytest.mark.parametrize(
    "arguments", [(), ("rnu",), ("run",), ("run", "small.yaml", "--sed", "1"), ("model", "yolov3", "--classes", "many")]
)
def test_a_command_that_is_not_one_shows_how_to_ask(detpress: Command, arguments: tuple[str, ...]) -> None:
    said = detpress(*arguments)
    assert said.code == 2
    assert "Usage: detpress" in said.out + said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [("detect", "absent", "a.jpg", "--score"), ("model", "yolov3", "--width"), ("store", "gc", "--days")],
)
def test_no_option_takes_nan(detpress: Command, arguments: tuple[str, ...]) -> None:
    said = detpress(*arguments, "nan")
    assert said.code == 2
    assert f"Invalid value for '{arguments[-1]}': " in said.err
    with pytest.raises(typer.BadParameter, match="nan is no number"):  # where Typer itself lets it pass
        no_nan(math.nan)


def spoil(data: Path, name: str, old: bytes, new: bytes) -> Path:
    """Replaces the first `old` of one of the data set's files."""
    content = (data / name).read_bytes()
    assert old in content
    (data / name).write_bytes(content.replace(old, new, 1))
    return data / name


BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><folder>&b;"""


@pytest.mark.parametrize("command", [("run", "small.yaml"), ("evaluate", "--results", "found", "--data", "digits")])
@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "ImageSets/Main/test.txt",
            b"000012",
            b"000099",
            "ImageSets/Main/test.txt:2: image '000099' has no annotation: digits/Annotations/000099.xml does not",
        ),
        ("ImageSets/Main/test.txt", b"000012", b"../../0", "ImageSets/Main/test.txt:2: '../../0' climbs out of"),
        ("Annotations/000012.xml", b"</bndbox>", b"", "Annotations/000012.xml:21: malformed XML: mismatched tag"),
        (
            "Annotations/000012.xml",
            b"<annotation>\n\t<folder>",
            BOMB,
            "Annotations/000012.xml:2: document type refused; expected XML without <!DOCTYPE or entities",
        ),
        ("Annotations/000012.xml", b"<ymin>", b"<ymin>x", "Annotations/000012.xml:10: object 1: ymin: expected a "),
    ],
)
def test_a_bad_file_of_the_data_set_is_told_by_file_and_line(
    detpress: Command, data: Path, command: tuple[str, ...], name: str, old: bytes, new: bytes, message: str
) -> None:
    (data.parent / "found").mkdir()
    (data.parent / "found/comp4_det_test_one.txt").write_text("000011 0.5 1 1 20 20\n")
    spoil(data, name, old, new)
    said = refusal(detpress(*command)).replace(f"{data.parent}/", "")
    assert said.startswith(f"digits/{message}")


def test_a_class_that_is_not_in_the_list_is_told_with_its_place_and_the_nearest(
    detpress: Command, data: Path, bundle: Path
) -> None:
    spoil(data, "Annotations/000012.xml", b"<name>", b"<name>x")
    said = refusal(detpress("evaluate", bundle, "--data", "digits"))
    assert said.startswith("digits/Annotations/000012.xml:10: object 1: class 'x")
    assert "is not in the recipe's or detector's list; did you mean '" in said


def test_boxes_without_area_are_counted_in_the_log_or_refused_by_the_setting(
    detpress: Command, data: Path, workplace: Path
) -> None:
    path = data / "Annotations/000003.xml"
    text = path.read_text()
    flat = text[text.index("\t<object>") : text.index("\t</object>")]
    for side in ("xmin", "xmax"):
        start, end = flat.index(f"<{side}>"), flat.index(f"</{side}>")
        flat = f"{flat[:start]}<{side}>7{flat[end:]}"
    path.write_text(text.replace("</annotation>", f"{flat}\t</object>\n</annotation>"))
    number = text.count("<object>") + 1
    short = ("--set", "chain=[{train.scratch: {epochs: 1, batch_size: 4}}]")
    said = detpress("run", "small.yaml", *short, "--set", "data.bad_boxes=refuse")
    assert f"Annotations/000003.xml:{text.count(chr(10))}: object {number} (" in refusal(said)
    assert "no area or lies outside 160x160; 1 such boxes refused" in said.err
    said = detpress("run", "small.yaml", *short)
    assert said.code == 0
    assert "1 training boxes left out: no area, or off the image" in said.err
    log = (workplace / "runs/small/1-train.scratch/stage.log").read_text()
    assert f"000003.xml:{text.count(chr(10))}: object {number} left out: no area, or off the image" in log
    assert "1 boxes left out" in log


@pytest.mark.parametrize("command", ["run", "validate", "compare"])
def test_a_photograph_cut_short_or_of_another_size_is_named_before_the_work(
    detpress: Command, data: Path, cache: Path, command: str
) -> None:
    photos = [data / f"JPEGImages/{name}.jpg" for name in ("000003", "000012", "000013")]
    photos[0].write_bytes(photos[0].read_bytes()[:900])
    for photo in photos[1:]:
        Image.new("RGB", (80, 80)).save(photo)
    said = detpress(command, "small.yaml")
    assert (said.code, said.out) == (2, "")
    assert f"detpress: {photos[0]}: cannot be read as an image (" in said.err
    assert said.err.endswith(f"\n{photos[1]}: 80x80 pixels, but its annotation says 160x160 (2 such in all)\n")
    assert not list((cache / "store").glob("stages/*"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photograph_spoilt_after_it_was_checked_is_named_and_the_stage_before_kept(
    detpress: Command, data: Path, workplace: Path, cache: Path, workers: int
) -> None:
    assert detpress("validate", "small.yaml").code == 0
    photo = data / "JPEGImages/000003.jpg"
    before = photo.stat()
    photo.write_bytes(photo.read_bytes()[:900] + bytes(before.st_size - 900))
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = refusal(detpress("run", "small.yaml", "--set", f"chain[0].workers={workers}"))
    assert said.startswith(f"train.scratch: {photo}: cannot be read as an image (")
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]
    assert (workplace / "runs/small/0-model/bundle/model.json").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JPEGImages/000012.jpg", "cannot be read as an image (it is a pipe or a device, no plain file)"),
        ("Annotations/000012.xml", "cannot be read: it is a pipe or a device, no plain file"),
        ("ImageSets/Main/test.txt", "cannot be read as an image set: it is a pipe or a device, no plain file"),
    ],
)
def test_a_pipe_among_the_data_is_refused_and_not_waited_for(
    detpress: Command, data: Path, name: str, message: str
) -> None:
    (data / name).unlink()
    os.mkfifo(data / name)
    assert refusal(detpress("validate", "small.yaml")) == f"{data / name}: {message}"


def test_validate_reads_the_data_unless_it_is_told_not_to(detpress: Command, data: Path) -> None:
    (data / "JPEGImages/000012.jpg").unlink()
    assert "000012.xml: its image " in refusal(detpress("validate", "small.yaml"))
    said = detpress("validate", "small.yaml", "--set", f"data.classes=[{', '.join(CLASSES)}]", "--no-data")
    assert (said.code, said.err) == (0, "")
    shutil.rmtree(data)
    said = detpress("validate", "small.yaml", "--set", f"data.classes=[{', '.join(CLASSES)}]", "--json")
    assert said.code == 0
    assert [row["plugin"] for row in said.json][:2] == ["model", "train.scratch"]
    assert said.err == f"the data set {data} is not there: only the recipe is checked\n"


def test_a_photograph_to_detect_in_that_is_cut_short_is_named(detpress: Command, data: Path, bundle: Path) -> None:
    photo = data / "JPEGImages/000012.jpg"
    photo.write_bytes(photo.read_bytes()[:900])
    said = refusal(detpress("detect", bundle, photo))
    assert said.startswith(f"{photo}: cannot be read as an image (")


def test_weights_in_a_form_that_does_not_fit_are_refused(
    detpress: Command, workplace: Path, bundle: Path, cache: Path
) -> None:
    weights = ("--set", f"model={{weights: {bundle}}}")
    masked = (*weights, "--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]", "--set", "measure.runtimes=[]")
    assert detpress("run", "small.yaml", *masked).code == 0
    masked_bundle = workplace / "runs/small/1-nni.l1norm/bundle"
    again = ("--set", f"model={{weights: {masked_bundle}}}", "--set", "measure.runtimes=[]")
    said = refusal(detpress("run", "small.yaml", *again, "--set", "chain=[{nni.l1norm: {sparsity: 0.5}}]"))
    assert said.endswith(f"chain[0].nni.l1norm: takes a dense model, but the weights {masked_bundle} are masked")
    assert detpress("run", "small.yaml", *again, "--set", "chain=[nni.speedup]", "--out", "smaller").code == 0


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "SHA256SUMS"])
@pytest.mark.parametrize(
    "command",
    [
        ("detect", "spoilt", "digits/JPEGImages/000012.jpg"),
        ("run", "small.yaml", "--set", "model={weights: spoilt}"),
    ],
)
def test_a_bundle_with_an_altered_byte_is_refused(
    detpress: Command, workplace: Path, bundle: Path, command: tuple[str, ...], name: str
) -> None:
    shutil.copytree(bundle, workplace / "spoilt")
    content = bytearray((workplace / "spoilt" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (workplace / "spoilt" / name).write_bytes(content)
    said = refusal(detpress(*command))
    assert "spoilt: " in said
    assert said.endswith("altered: digest is not the one in SHA256SUMS")


@pytest.fixture
def darknet(workplace: Path) -> Path:
    """tiny.cfg, tiny.weights and tiny.names."""
    model = new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0)
    write_model(model.network, workplace / "tiny.cfg", workplace / "tiny.weights")
    (workplace / "tiny.names").write_text("".join(f"{name}\n" for name in CLASSES))
    return workplace / "tiny.weights"


IMPORT = ("import", "tiny.cfg", "tiny.weights", "--classes", "tiny.names", "--out", "imported")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-4], "tiny.weights: has {less} bytes, but tiny with 10 classes takes {size}"),
        (lambda content: content + bytes(4), "tiny.weights: has {more} bytes, but tiny with 10 classes takes {size}"),
        (lambda content: content[:7], "tiny.weights: too short for the header"),
    ],
)
def test_darknet_weights_that_do_not_fit_are_refused(detpress: Command, darknet: Path, change, message: str) -> None:
    content = darknet.read_bytes()
    size = len(content)
    darknet.write_bytes(change(content))
    said = refusal(detpress(*IMPORT))
    assert said.startswith(message.format(less=size - 4, more=size + 4, size=size))
    assert not Path("imported").exists()


def test_darknet_weights_of_another_network_are_refused(detpress: Command, darknet: Path) -> None:
    other = new_model(build_architecture("yolov3-tiny", CLASSES[:3], 64, width=0.0625), seed=0)
    write_model(other.network, darknet.with_name("other.cfg"), darknet)
    said = refusal(detpress(*IMPORT))
    assert "it has the size of this network with 3 classes" in said


def test_darknet_weights_that_are_not_finite_are_refused_with_their_layer(detpress: Command, darknet: Path) -> None:
    content = darknet.read_bytes()
    darknet.write_bytes(content[:20] + struct.pack("<f", float("nan")) + content[24:])
    assert "tiny.weights: layers.0.norm.bias has a number that is not finite" in refusal(detpress(*IMPORT))


def test_a_class_that_is_named_twice_is_refused_with_both_lines(detpress: Command, darknet: Path) -> None:
    darknet.with_name("tiny.names").write_text("zero\n\none\nzero\n")
    assert refusal(detpress(*IMPORT)) == "tiny.names:4: class 'zero' is named before, in line 1"


def test_a_class_that_could_have_no_results_file_is_refused_with_its_line(detpress: Command, darknet: Path) -> None:
    for name, expected in (("a\0b", "in UTF-8, without control "), ("a" * 300, "of at most 255 bytes in all")):
        darknet.with_name("tiny.names").write_text("\n".join(["../x/..", name, *CLASSES[2:]]))
        said = refusal(detpress(*IMPORT))
        assert said.startswith("tiny.names:2: class 'a")
        assert f"has no results file: expected a name {expected}" in said
    darknet.with_name("tiny.names").write_text("\n".join(["../x/..", "/", *CLASSES[2:]]))
    assert detpress(*IMPORT).code == 0, "in files' names their slashes are %2F"


def test_a_file_of_classes_that_is_no_text_is_refused(detpress: Command, darknet: Path) -> None:
    darknet.with_name("tiny.names").write_bytes(b"zero\n\xff\xfe\n")
    assert refusal(detpress(*IMPORT)) == "tiny.names: not a text (UTF-8); expected class names, one a line"


def test_a_head_without_a_mask_is_said_to_have_all_anchors(detpress: Command, darknet: Path) -> None:
    """Which is why its number of filters does not fit."""
    cfg = darknet.with_name("tiny.cfg")
    cfg.write_text("\n".join(line for line in cfg.read_text().splitlines() if not line.startswith("mask")))
    said = refusal(detpress(*IMPORT))
    expected = "with 10 classes and 6 anchors (all: there is no mask) expects a [convolutional] of 90 filters before it"
    assert expected in said


def test_an_architectures_name_is_for_a_checkpoint_only(detpress: Command, darknet: Path) -> None:
    said = refusal(detpress("import", "yolov3-tiny", darknet.name, "--classes", "tiny.names"))
    assert said.startswith("yolov3-tiny: the name of an architecture, which is for a checkpoint (")
    assert said.endswith("; Darknet's tiny.weights needs the cfg that it was trained with")


def test_a_side_that_is_no_multiple_of_the_stride_is_named_with_its_line(detpress: Command, darknet: Path) -> None:
    cfg = darknet.with_name("tiny.cfg")
    cfg.write_text(cfg.read_text().replace("width=64", "width=72", 1))
    said = refusal(detpress(*IMPORT))
    assert said.startswith("tiny.cfg:2: [net] width: 72; expected a multiple of 32, the stride of the smallest map (")
    assert "[route] cannot concatenate maps with sides of [4, 5, 6] pixels)" in said


def test_what_only_training_reads_may_come_twice_in_a_cfg(detpress: Command, darknet: Path) -> None:
    """As `batch` does in Darknet's own yolov3-openimages.cfg; files from Windows begin with a byte order mark."""
    cfg, names = darknet.with_name("tiny.cfg"), darknet.with_name("tiny.names")
    cfg.write_text("\ufeff" + cfg.read_text().replace("[net]\n", "[net]\nbatch=1\nbatch=64\n", 1), encoding="utf-8")
    names.write_text("\ufeff" + names.read_text(), encoding="utf-8")
    assert detpress(*IMPORT).code == 0
    assert load_bundle(Path("imported")).architecture.classes == tuple(CLASSES)


def test_names_that_are_not_as_many_as_the_classes_are_refused(detpress: Command, darknet: Path) -> None:
    darknet.with_name("tiny.names").write_text("zero\none\n")
    assert "tiny.cfg" in refusal(detpress(*IMPORT))


def test_an_archive_that_climbs_out_is_refused(
    detpress: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "fetched").mkdir()
    path = workplace / "fetched/evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../../evil.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    archive = download.Archive("https://example.invalid/evil.tar", path.name, md5, path.stat().st_size)
    monkeypatch.setattr(download, "voc_archives", lambda: {"2007": [archive]})  # placed by hand: nothing is downloaded
    said = refusal(detpress("data", "get", "voc2007", "--root", "fetched"))
    assert said.startswith("fetched/evil.tar: refused, a member is not safe to unpack")
    assert not list(workplace.rglob("evil.txt"))


def test_results_of_a_class_that_the_data_do_not_have_are_left_out(detpress: Command, data: Path) -> None:
    names = sorted({line.split("<name>")[1].split("<")[0] for line in _names(data)})
    (data.parent / "found").mkdir()
    for name in (names[0], "ring"):
        (data.parent / f"found/comp4_det_test_{name}.txt").write_text("000011 0.5 1 1 20 20\n")
    said = detpress("evaluate", "--results", "found", "--data", "digits")
    assert said.code == 0
    assert "ring   left out: the image set has no object of it" in said.out


def _names(data: Path) -> list[str]:
    return [
        line for path in data.glob("Annotations/*.xml") for line in path.read_text().split("\n") if "<name>" in line
    ]


@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_misspelled_option_is_named_before_torch_is_imported(workplace: Path, command: str) -> None:
    recipe = workplace / "small.yaml"
    recipe.write_text(recipe.read_text().replace("sparsity", "sparsty"))
    code = (
        f"import sys; sys.argv = ['detpress', '{command}', 'small.yaml']\n"
        "from detpress.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "small.yaml:6: chain[1].nni.l1norm.sparsty: unknown key" in done.stderr


@pytest.mark.parametrize("name", ["results.json", "study.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, ": not what detpress writes: nested too deep"),
        ("9" * 5000, ": not what detpress writes: a number of thousands of digits"),
        ('{"rows": [}', ":1: not JSON: Expecting value"),
        ('{"rows": [{"figures": {"map": {"mean": NaN}}}]}', ": holds NaN; expected finite numbers"),
        ("[]", ": not what detpress writes: a value of another kind"),
        ("{}", " is missing"),
    ],
    ids=["brackets", "digits", "comma", "nan", "list", "empty"],
)
def test_a_report_of_what_no_run_wrote_is_refused(
    detpress: Command, workplace: Path, name: str, content: str, message: str
) -> None:
    Path("made").mkdir()
    Path("made", name).write_text(content)
    said = refusal(detpress("report", "made"))
    assert said.startswith(f"made/{name}:")
    assert said.endswith(message)


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", f"{LONG}.yaml"),
        ("run", LONG),
        ("run", "small.yaml", "--out", LONG),
        ("run", "small.yaml", "--set", f"name={LONG}"),
        ("run", "small.yaml", "--set", f"data.root={LONG}"),
        ("run", "small.yaml", "--set", f"data.train={LONG}"),
        ("run", "small.yaml", "--set", f"model={{weights: {LONG}}}"),
        ("compare", f"{LONG}.yaml"),
        ("report", LONG),
        ("export", LONG, "--to", "onnx"),
        ("export", "builtin:digits", "--to", "darknet", "--out", f"{LONG}.cfg"),
        ("import", LONG, LONG, "--classes", LONG),
        ("detect", "builtin:digits", LONG),
        ("evaluate", "--data", "digits", "--results", LONG),
    ],
)
def test_a_name_too_long_for_a_disk_is_one_line(detpress: Command, workplace: Path, arguments: tuple[str, ...]) -> None:
    assert refusal(detpress(*arguments)).count(LONG) <= 2
