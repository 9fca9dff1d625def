"""Exported files, read back by the programs they are for."""

import json
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import build_architecture
from detpress.detector.model import Model, new_model
from detpress.encodings.onnx_model import onnx_model
from detpress.errors import InputError
from detpress.runtimes.export import EXPORTS, write_darknet, write_onnx, write_openvino, write_torch


@pytest.fixture(scope="module")
def dense_file(dense_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "dense.onnx"
    difference = write_onnx(dense_model, path)
    assert difference.is_usual
    assert 0 < difference.largest < 1e-4
    return path


@pytest.fixture(scope="module")
def int8_file(int8_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "int8.onnx"
    difference = write_onnx(int8_model, path)
    assert difference.is_usual
    assert 0 < difference.largest < 2  # rounded between convolutions, too, and carried on
    return path


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_takes_any_batch(dense_model: Model, dense_file: Path, images: Tensor, batch: int) -> None:
    session = onnxruntime.InferenceSession(dense_file)
    found = session.run(["map_32", "map_16", "map_8"], {"images": images[:batch].numpy()})
    with torch.inference_mode():
        for one, other in zip(dense_model.network(images[:batch]), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(other), one, rtol=1e-4, atol=1e-4)


def test_float_files_are_of_the_versions_that_older_runtimes_read(dense_file: Path) -> None:
    proto = onnx.load(dense_file)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 8
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]


@pytest.fixture(scope="module")
def tiny_model() -> Model:
    """Has `Pad` and `MaxPool`, which YOLOv3 has not."""
    return new_model(build_architecture("yolov3-tiny", ["cat"], 32, width=0.0625), seed=0)


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 7), (17, 8)])
def test_a_network_that_pads_and_pools_is_written_for_older_runtimes(
    tiny_model: Model, opset: int, ir_version: int, tmp_path: Path
) -> None:
    difference = write_onnx(tiny_model, tmp_path / "tiny.onnx", opset)
    assert difference.largest <= 1e-5 * difference.size
    proto = onnx.load(tmp_path / "tiny.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert "Pad" in {node.op_type for node in proto.graph.node}
    assert (proto.opset_import[0].version, proto.ir_version) == (opset, ir_version)


@pytest.mark.parametrize("opset", [13, 23])
def test_int8_files_compute_the_same_in_every_opset(int8_model: Model, opset: int, tmp_path: Path) -> None:
    ours, other = (write_onnx(int8_model, tmp_path / f"{number}.onnx", number) for number in (17, opset))
    assert other == ours
    proto = onnx.load(tmp_path / f"{opset}.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset


def test_metadata_says_how_to_make_boxes(dense_model: Model, dense_file: Path) -> None:
    found = {prop.key: json.loads(prop.value) for prop in onnx.load(dense_file).metadata_props}
    anchors = [[list(anchor) for anchor in layer.anchors] for layer in dense_model.architecture.yolo_layers]
    assert found == {"classes": ["cat", "dog"], "anchors": anchors, "image_size": 64, "resize": "letterbox"}


def test_int8_weights_stay_in_8_bits_between_quantize_and_dequantize(int8_file: Path) -> None:
    graph = onnx.load(int8_file).graph
    made_by = {node.output[0]: node for node in graph.node}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 75
    for node in convolutions:
        activation, weight = (made_by[name] for name in node.input[:2])
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert made_by[activation.input[0]].op_type == "QuantizeLinear"
        assert types[weight.input[0]] == onnx.TensorProto.INT8


def test_the_same_model_gives_the_same_bytes_that_name_no_source_file(int8_model: Model, int8_file: Path) -> None:
    content = int8_file.read_bytes()
    assert onnx_model(int8_model).SerializeToString(deterministic=True) == content
    assert b".py" not in content


def test_one_file_and_nothing_on_the_terminal(
    dense_model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_onnx(dense_model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")


def test_darknet_files_give_the_same_bits_when_read_again(dense_model: Model, tmp_path: Path) -> None:
    assert write_darknet(dense_model, tmp_path / "small.cfg").largest == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.cfg", "small.weights"]


def test_an_int8_model_has_no_darknet_form(int8_model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model of the form int8 has no Darknet form"):
        write_darknet(int8_model, tmp_path / "small.cfg")


def test_openvino_files_keep_int8_weights_and_what_makes_boxes(int8_model: Model, tmp_path: Path) -> None:
    from detpress.runtimes.opening import read_exported

    difference = write_openvino(int8_model, tmp_path / "small.xml")
    assert difference.is_usual
    assert 0 < difference.largest < 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.bin", "small.xml"]
    weights = sum(layer.numel() for layer in int8_model.network.buffers() if layer.dtype == torch.int8)
    assert weights < (tmp_path / "small.bin").stat().st_size < 1.2 * weights
    heads, runtime = read_exported(tmp_path / "small.xml", threads=1)
    whole = int8_model.architecture
    assert (heads.classes, heads.yolo_layers, heads.image_size, heads.resize) == (
        whole.classes, whole.yolo_layers, whole.image_size, whole.resize,
    )  # fmt: skip
    assert runtime.precision == "int8"


@pytest.mark.parametrize("form", ["dense", "int8"])
def test_a_torch_program_gives_the_same_bits_for_any_batch(
    form: str, dense_model: Model, int8_model: Model, images: Tensor, tmp_path: Path
) -> None:
    model = {"dense": dense_model, "int8": int8_model}[form]
    assert write_torch(model, tmp_path / "small.pt2").largest == 0
    extra = {"classes": ""}
    program = torch.export.load(tmp_path / "small.pt2", extra_files=extra).module()
    assert json.loads(extra["classes"]) == ["cat", "dog"]
    with torch.inference_mode():
        for one, other in zip(model.network(images[:3]), program(images[:3]), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_that_is_no_exported_model_is_named(suffix: str, tmp_path: Path) -> None:
    from detpress.runtimes.opening import read_exported

    path = tmp_path / f"model{suffix}"
    with pytest.raises(InputError, match=f"{path}: "):
        read_exported(path, threads=1)
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=f"{path}: not a model that "):
        read_exported(path, threads=1)


def test_a_model_of_another_program_lacks_what_makes_boxes(dense_model: Model, tmp_path: Path) -> None:
    from detpress.runtimes.opening import read_exported

    proto = onnx_model(dense_model)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"other\.onnx: lacks the metadata 'classes' that `detpress export` writes"):
        read_exported(tmp_path / "other.onnx", threads=1)


@pytest.mark.parametrize("to", EXPORTS)
def test_a_file_that_cannot_be_written_is_named(dense_model: Model, tmp_path: Path, to: str) -> None:
    suffix, write = EXPORTS[to]
    path = tmp_path / "absent" / f"model{suffix}"
    with pytest.raises(InputError, match=f"{path}: cannot be written"):
        write(dense_model, path)


def test_onnx_operators_of_a_float_model_are_the_networks_own(dense_file: Path) -> None:
    operators = Counter(node.op_type for node in onnx.load(dense_file).graph.node)
    named = {"Identity": 3}  # the maps, by their names
    layers = {"Conv": 75, "LeakyRelu": 72, "Add": 23, "Resize": 2, "Concat": 2}
    assert operators == layers | named, "BatchNorm not folded"


def test_an_operator_that_onnxruntime_does_not_know_is_an_error_that_names_the_file(
    dense_file: Path, tmp_path: Path
) -> None:
    from detpress.runtimes.opening import read_exported

    proto = onnx.load(dense_file)
    next(node for node in proto.graph.node if node.op_type == "LeakyRelu").op_type = "Mish2"
    path = tmp_path / "unknown.onnx"
    onnx.save(proto, path)
    with pytest.raises(InputError, match=r"unknown\.onnx: not a model that ONNX Runtime can run"):
        read_exported(path, threads=1)
