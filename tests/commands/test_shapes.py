"""Networks that are no squares, of sides that are multiples of their own stride, from the cfg to drawn pictures."""

from pathlib import Path

import pytest
import torch
from command_line import Command
from PIL import Image

from detpress.detector.darknet import write_model
from detpress.detector.darknet_cfg import read_cfg
from detpress.detector.model import new_model
from detpress.encodings.bundle import load_bundle
from detpress.voc.digits import CLASSES

DOWN = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
HEAD = f"[convolutional]\nfilters={5 + len(CLASSES)}\nsize=1\nactivation=linear\n"
YOLO = f"anchors=12,16, 30,40\nclasses={len(CLASSES)}\nnum=2\n"
CFG = f"""\
[net]
width={{width}}
height={{height}}
{DOWN * 4}
{HEAD}
[yolo]
mask=1
{YOLO}
[route]
layers=-3
[upsample]
stride=2
[route]
layers=-1,2
{HEAD}
[yolo]
mask=0
{YOLO}
"""
RECIPE = """\
name: shapes
data: {root: digits}
model: {weights: shapes}
chain:
  - train.finetune: {epochs: 1, batch_size: 4}
measure: {runtimes: [torch, onnxruntime, openvino], threads: 1, memory: false}
"""


@pytest.mark.parametrize(
    ("height", "width", "resize", "forms"),
    [(64, 96, "letterbox", ["dense", "dense"]), (48, 80, "stretch", ["dense", "dense", "int8"])],
)
def test_a_network_that_is_no_square_goes_the_whole_way(
    detpress: Command, workplace: Path, height: int, width: int, resize: str, forms: list[str]
) -> None:
    Path("shapes.cfg").write_text(CFG.format(height=height, width=width))
    network = new_model(read_cfg(Path("shapes.cfg"), CLASSES), seed=0).network
    write_model(network, Path("written.cfg"), Path("shapes.weights"))
    Path("shapes.names").write_text("\n".join(CLASSES))
    files = ("shapes.cfg", "shapes.weights", "--classes", "shapes.names")
    said = detpress("import", *files, "--resize", resize, "--json")
    assert (said.json["image_size"], said.json["resize"]) == ([height, width], resize)
    quantized = "  - inc.static_int8: {calibration_images: 4}\n" if "int8" in forms else ""
    Path("shapes.yaml").write_text(RECIPE.replace("measure:", f"{quantized}measure:"))
    said = detpress("run", "shapes.yaml", "--json")
    assert said.code == 0, said.err
    assert [stage["form"] for stage in said.json["stages"]] == forms
    for stage in said.json["stages"]:
        assert set(stage["metrics"]["latency_ms"]) == {"torch", "onnxruntime", "openvino"}
        assert load_bundle(Path(stage["bundle"])).architecture.input_size == (height, width)
    with torch.inference_mode():
        maps = load_bundle(Path(said.json["stages"][-1]["bundle"])).network(torch.rand(2, 3, height, width))
    assert [raw.shape[2:] for raw in maps] == [(height // 16, width // 16), (height // 8, width // 8)]
    assert list(Path("runs/shapes/pictures").glob("*.jpg"))
    exports = {"onnx": "out.onnx", "openvino": "out.xml", "torch": "out.pt2", "darknet": "out.cfg"}
    for to, name in exports.items():
        stage = said.json["stages"][1 if to == "darknet" else -1]
        made = detpress("export", stage["bundle"], "--to", to, "--out", name, "--json")
        assert made.json["usual"], made.err
    picture = "digits/JPEGImages/000011.jpg"
    for model in ("out.onnx", "out.xml"):
        said = detpress("detect", model, picture, "--score", "0", "--out", f"found-{model}", "--json")
        found = said.json[0]["objects"]
        size = Image.open(picture).size
        assert found
        assert all(0 <= box[i] <= size[i % 2] for box in (one["box"] for one in found) for i in range(4))
        drawn = Image.open(f"found-{model}/000011.png").size
        assert drawn[0] * size[1] == drawn[1] * size[0]
    assert detpress("evaluate", "out.xml", "--data", "digits", "--json").code == 0
