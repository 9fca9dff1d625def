"""What newer Darknets have: each layer against numbers worked out by hand, each option read, kept or refused."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detpress.detector.boxes import decode
from detpress.detector.darknet import WeightsHeader, kept_options, read_model, weights_size, write_model, write_weights
from detpress.detector.darknet_cfg import read_cfg, read_description, write_cfg
from detpress.detector.kinds import (
    LocalAveragePool,
    MaxPool,
    Reorg,
    Route,
    Sam,
    Shortcut,
    Yolo,
)
from detpress.detector.layer import FeatureMap, Layer
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError
from detpress.runtimes.export import write_darknet, write_onnx

NETWORK = """[net]
batch=64
width=64
height=32
letter_box=1
mosaic=1
wobble=3;4
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
stopbackward=800
[route]
layers=-1
groups=2
group_id=1
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
dilation=2
groups=4
activation=swish
[shortcut]
from=-2
activation=leaky
[convolutional]
filters=8
size=1
activation=logistic
[sam]
from=-2
[maxpool]
size=3
stride=2
[reorg3d]
stride=2
[convolutional]
batch_normalize=1
filters=8
size=1
activation=relu6
[convolutional]
batch_normalize=1
filters=8
size=1
activation=relu6
[convolutional]
batch_normalize=1
filters=8
size=1
share_index=-1
activation=relu6
[convolutional]
filters=14
size=1
activation=logistic
[yolo]
mask=0,1
anchors=4,6, 9,8, 20,10
classes=2
num=3
scale_x_y=2.0
new_coords=1
jitter=.1
[route]
layers=-4
[upsample]
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=2
anchors=4,6, 9,8, 20,10
classes=2
num=3
scale_x_y=1.05
"""


def of_text(folder: Path, text: str = NETWORK) -> Path:
    path = folder / "newer.cfg"
    path.write_text(text)
    return path


def random_numbers(network: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + (0.3 if "var" in name else -0.2))


@pytest.fixture
def imported(tmp_path: Path) -> Model:
    """Of a weights file that has the weights of layers 9 and 10, which are the same, once."""
    cfg = of_text(tmp_path)
    network = new_model(read_cfg(cfg), seed=0).network
    assert isinstance(network, Network)
    random_numbers(network)
    write_weights(tmp_path / "newer.weights", network, WeightsHeader(0, 2, 5, 77), shared=[10])
    return read_model(cfg, tmp_path / "newer.weights", ["a", "b"])


def test_a_description_with_all_of_it_comes_back(tmp_path: Path) -> None:
    architecture = read_cfg(of_text(tmp_path))
    assert architecture.input_size == (32, 64)
    assert architecture.as_dict()["image_size"] == [32, 64]
    assert architecture.map_names == ("map_8", "map_4")
    assert [str(architecture.output_maps[i]) for i in architecture.heads] == [
        "14 channels of 4 x 8",
        "7 channels of 8 x 16",
    ]
    (tmp_path / "again.cfg").write_text(write_cfg(architecture))
    assert read_cfg(tmp_path / "again.cfg", name="newer") == architecture


def test_what_is_done_with_each_option_is_said(tmp_path: Path) -> None:
    said = read_description(of_text(tmp_path))
    assert said.kept == {
        "net": {"batch": "64", "mosaic": "1", "wobble": "3;4"},
        "layers.0": {"stopbackward": "800"},
        "layers.12": {"jitter": ".1"},
    }
    assert said.notes == (
        "images are letterboxed (keep their proportions), as letter_box=1 says",
        "options of Darknet's training: 4 kept for its files, else without effect",
        f"{tmp_path / 'newer.cfg'}:7: [net] wobble=3;4 is not known: kept, without effect",
    )
    asked = read_description(of_text(tmp_path), resize="stretch")
    assert (asked.architecture.resize, asked.notes[0]) == (
        "stretch",
        "images are stretched to the input's shape, as asked for",
    )


def test_files_come_back_byte_for_byte_from_a_bundle_the_options_of_training_with_them(
    tmp_path: Path, imported: Model
) -> None:
    save_bundle(imported, tmp_path / "bundle")
    assert write_darknet(load_bundle(tmp_path / "bundle"), tmp_path / "out.cfg").largest == 0
    assert (tmp_path / "out.weights").read_bytes() == (tmp_path / "newer.weights").read_bytes()
    assert read_description(tmp_path / "out.cfg").kept == read_description(tmp_path / "newer.cfg").kept


def test_shared_weights_are_in_the_file_once_until_they_differ(tmp_path: Path, imported: Model) -> None:
    network = imported.network
    assert isinstance(network, Network)
    once = weights_size(imported.architecture, shared=[10])
    assert (tmp_path / "newer.weights").stat().st_size == once
    assert torch.equal(network.layers[9].convolution.weight, network.layers[10].convolution.weight)
    with torch.no_grad():
        network.layers[10].convolution.weight.add_(1)
    kept = kept_options(imported)
    write_model(network, tmp_path / "two.cfg", tmp_path / "two.weights", kept=kept)
    assert "share_index" not in (tmp_path / "two.cfg").read_text()
    assert (tmp_path / "two.weights").stat().st_size == weights_size(imported.architecture) > once
    # A file that has them twice is read as such, whatever the cfg says.
    read = read_model(tmp_path / "newer.cfg", tmp_path / "two.weights", ["a", "b"])
    assert torch.equal(read.network.layers[10].convolution.weight, network.layers[10].convolution.weight)


FIRST_SHARED = """[net]
width=32
height=32
letter_box=1
[convolutional]
filters={filters}
size=3
pad=1
activation=linear
[convolutional]
filters={filters}
size=3
pad=1
activation=linear
share_index=0
[convolutional]
filters=18
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=4,6, 9,8, 20,10
classes=1
num=3
"""


def test_the_first_convolution_takes_the_images_also_where_its_weights_are_shared(tmp_path: Path) -> None:
    (tmp_path / "three.cfg").write_text(FIRST_SHARED.format(filters=3))
    assert read_description(tmp_path / "three.cfg").shared == {1: 0}
    (tmp_path / "eighteen.cfg").write_text(FIRST_SHARED.format(filters=18))
    with pytest.raises(InputError, match=r"eighteen\.cfg:15: .*share_index: layer 0 has weights of another shape"):
        read_description(tmp_path / "eighteen.cfg")


def test_options_in_a_bundle_that_no_cfg_file_has_are_refused(imported: Model) -> None:
    imported.history[0]["options"] = {"net": {"batch": "1\n[crnn]"}}
    with pytest.raises(InputError, match="history: not the options of a Darknet cfg file"):
        kept_options(imported)


def test_onnx_runtime_computes_the_same(tmp_path: Path, imported: Model) -> None:
    assert write_onnx(imported, tmp_path / "newer.onnx").is_usual


def computed(layer: Layer, *maps: Tensor) -> Tensor:
    shapes = [FeatureMap(*given.shape[1:]) for given in maps]
    found: Tensor = layer.module(shapes)(*maps)
    assert FeatureMap(*found.shape[1:]) == layer.given(shapes)
    return found


def channels(*rows: list[float]) -> Tensor:
    """One image of one row, a channel each."""
    return torch.tensor([[[row] for row in rows]])


def test_a_shortcut_adds_the_channels_that_both_have() -> None:
    two, three = channels([1.0, -4.0], [2.0, 0.0]), channels([10.0, 1.0], [20.0, 2.0], [30.0, 3.0])
    assert torch.equal(computed(Shortcut(0), two, three), channels([11.0, -3.0], [22.0, 2.0]))
    assert torch.equal(computed(Shortcut(0), three, two), channels([11.0, -3.0], [22.0, 2.0], [30.0, 3.0]))
    assert torch.equal(computed(Shortcut(0, activation="relu"), two, three), channels([11.0, 0.0], [22.0, 2.0]))


def test_sam_multiplies_place_by_place() -> None:
    assert torch.equal(computed(Sam(0), channels([0.5, 2.0]), channels([4.0, 3.0])), channels([2.0, 6.0]))


def test_a_route_takes_a_part_of_each_source() -> None:
    four, two = channels([1.0], [2.0], [3.0], [4.0]), channels([5.0], [6.0])
    assert torch.equal(computed(Route((0, 1), groups=2, group=1), four, two), channels([3.0], [4.0], [6.0]))


def test_reorg_puts_the_pixels_of_a_square_into_channels_by_rows() -> None:
    image = torch.arange(16.0).view(1, 2, 2, 4)
    found = computed(Reorg(2), image)
    assert found[0, :, 0].tolist() == [[0, 2], [8, 10], [1, 3], [9, 11], [4, 6], [12, 14], [5, 7], [13, 15]]


@pytest.mark.parametrize(
    ("layer", "row", "expected"),
    [
        (MaxPool(2, 2), [1, 3, 2, 5, 4], [3, 5, 4]),
        (MaxPool(2, 1), [1, 3, -2, -5], [3, 3, -2, -5]),
        (MaxPool(4, 1), [1, 3, -2, -5, -7], [3, 3, 3, -2, -5]),
        (MaxPool(3, 3), [1, 3, -2, -5, -7, 0, -1], [3, -2, 0]),
        (MaxPool(3, 2, padding=0), [1, 3, -2, -5, -7], [3, -2]),
        (LocalAveragePool(4, 4), [1, 3, 2, 6, 4], [2, 5]),
        (LocalAveragePool(3, 1), [3, 6, 0], [4.5, 3, 3]),
    ],
)
def test_pooling_passes_over_what_lies_outside_as_darknet_does(
    layer: Layer, row: list[float], expected: list[float]
) -> None:
    across = torch.tensor(row).float().expand(1, 1, len(row), -1)
    assert computed(layer, across)[0, 0, 0].tolist() == expected
    assert computed(layer, across.mT)[0, 0, :, 0].tolist() == expected


def test_boxes_are_decoded_as_scale_and_coordinates_say(tmp_path: Path, imported: Model) -> None:
    heads = imported.architecture
    coarse, fine = torch.zeros(1, 14, 4, 8), torch.zeros(1, 7, 8, 16)
    coarse[0, 7:11, 2, 5] = torch.tensor([1.0, -2.0, 0.5, math.inf])  # of the second anchor, 9 x 8
    fine[0, :4, 3, 6] = torch.tensor([0.2, 0.0, 1.0, -1.0])
    boxes, scores = decode([coarse, fine], heads)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (1.0, -2.0, 0.5)]
    x, y = (5 + 2 * sigmoid[0] - 0.5) * 8, (2 + 2 * sigmoid[1] - 0.5) * 8
    width, height = 9 * (2 * sigmoid[2]) ** 2, 8 * 4
    assert boxes[0, 32 + 2 * 8 + 5].tolist() == pytest.approx(
        [x - width / 2, y - height / 2, x + width / 2, y + height / 2], rel=1e-5
    )
    x, y = (6 + 1.05 / (1 + math.exp(-0.2)) - 0.025) * 4, 3.5 * 4
    width, height = 20 * math.e, 10 / math.e
    assert boxes[0, 64 + 3 * 16 + 6].tolist() == pytest.approx(
        [x - width / 2, y - height / 2, x + width / 2, y + height / 2], rel=1e-5
    )
    assert scores.unique().tolist() == [0.25]


def test_a_size_is_the_inverse_of_its_factor() -> None:
    factors = torch.tensor([0.1, 1.0, 3.5])
    for layer in (Yolo(((10, 10),)), Yolo(((10, 10),), 2.0, new_coords=True)):
        assert torch.allclose(layer.factors(layer.of_factors(factors)), factors)


def test_a_stride_given_for_each_direction_is_the_stride(tmp_path: Path) -> None:
    """As AlexeyAB's Darknet reads them: `stride` is for what is absent of the two."""
    text = "[net]\nwidth=64\nheight=64\n[convolutional]\nfilters=7\nsize=3\npad=1\nactivation=linear\n{}"
    text += "[yolo]\nmask=0\nanchors=8,8\nclasses=2\n"
    (tmp_path / "both.cfg").write_text(text.format("stride_x=2\nstride_y=2\n"))
    (tmp_path / "one.cfg").write_text(text.format("stride=2\n"))
    both, one = (read_cfg(tmp_path / f"{name}.cfg", name="same") for name in ("both", "one"))
    assert both == one
    assert both.strides == (2,)
