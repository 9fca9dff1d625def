"""Darknet's files: descriptions that come back, and weights byte for byte."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detpress.detector.architecture import (
    Architecture,
    Convolution,
    Layer,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    Yolo,
    build_architecture,
)
from detpress.detector.channels import without_filters
from detpress.detector.coupling import coupled_convolutions
from detpress.detector.darknet import (
    WeightsHeader,
    read_model,
    read_weights,
    weights_size,
    write_model,
    write_weights,
)
from detpress.detector.darknet_cfg import LARGEST_FILE, read_cfg, write_cfg
from detpress.detector.design import architecture_names
from detpress.detector.kinds import AveragePool, Dropout, ScaleChannels
from detpress.detector.model import new_model
from detpress.detector.network import Network
from detpress.errors import InputError

COCO = [f"class{i}" for i in range(80)]
IN_DARKNET = [name for name in architecture_names() if not name.startswith("multi-bias")]
SMALL = build_architecture("yolov3-tiny", ["class0", "class1"], 64, width=1 / 16)
HEADERS = [WeightsHeader(0, 1, 0, 32_013_312), WeightsHeader(0, 2, 0, 2**40 + 7), WeightsHeader(1000, 2, 5, -1)]


def random_network(architecture: Architecture, seed: int = 0) -> Network:
    """Weights and running statistics all random, as after training."""
    network = new_model(architecture, seed).network
    assert isinstance(network, Network)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + (0.1 if "norm" in name else -0.1))
    return network


def same_maps(one: torch.nn.Module, other: torch.nn.Module, size: int) -> bool:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return all(torch.equal(a, b) for a, b in zip(one(images), other(images), strict=True))


# ---- cfg


WRITTEN_BY_HAND = """
[net]
# Testing
batch=1
width=64
height = 64
channels=3
learning_rate=0.001
steps=400000,450000

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky   # the usual

; two of the same width
[conv]
batch_normalize=1
filters=8
size=1
stride=1
pad=1
groups=2
activation=linear

[shortcut]
from=-2
activation=linear

[max]
size=2
stride=2

[route]
layers = -1

[upsample]
stride=2

[route]
layers = -1, 2

[convolutional]
size=1
stride=1
filters=16
activation=linear

[yolo]
mask = 1,2
anchors = 10,13,  16,30.5,  33,23
classes=3
num=3
jitter=.3
ignore_thresh = .7
"""


def test_a_file_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.cfg"
    path.write_text(WRITTEN_BY_HAND.replace("\n", "\r\n"))
    assert read_cfg(path, ["a", "b", "c"]) == Architecture(
        "mine",
        (
            Convolution(8, 3, stride=2),
            Convolution(8, 1, activation="linear", groups=2),
            Shortcut(0),
            MaxPool(2, 2),
            Route((3,)),
            Upsample(2),
            Route((5, 2)),
            Convolution(16, 1, batch_normalize=False, activation="linear"),
            Yolo(((16, 30.5), (33, 23))),
        ),
        ("a", "b", "c"),
        64,
    )


def test_what_darknet_takes_for_granted(tmp_path: Path) -> None:
    path = tmp_path / "short.cfg"
    path.write_text(
        "[net]\nwidth=32\nheight=32\n[maxpool]\nstride=2\n[upsample]\n"
        "[convolutional]\nfilters=50\nactivation=linear\n[yolo]\nanchors=1,2,3,4\n"
    )
    architecture = read_cfg(path)
    assert architecture.layers == (
        MaxPool(2, 2),
        Upsample(2),
        Convolution(50, 1, batch_normalize=False, activation="linear"),
        Yolo(((1, 2), (3, 4))),
    )
    assert architecture.classes == tuple(f"class{i}" for i in range(20))


def with_biases(architecture: Architecture) -> Architecture:
    """As Darknet has it: with a bias, of zeros, where there is neither that nor batch normalisation."""
    return replace(
        architecture,
        layers=tuple(
            replace(layer, bias=True) if isinstance(layer, Convolution) else layer for layer in architecture.layers
        ),
    )


@pytest.mark.parametrize("name", IN_DARKNET)
def test_the_published_networks_come_back(tmp_path: Path, name: str) -> None:
    architecture = build_architecture(name, COCO, 416)
    path = tmp_path / f"{name}.cfg"
    path.write_text(write_cfg(architecture))
    assert read_cfg(path) == with_biases(architecture)
    assert "anchors=10,1" in path.read_text()
    assert [line for line in path.read_text().splitlines() if line.startswith("mask=")] == {
        "yolov3-tiny": ["mask=3,4,5", "mask=0,1,2"],
    }.get(name, ["mask=6,7,8", "mask=3,4,5", "mask=0,1,2"])


OF_DARKNET = ["leaky", "relu", "linear", "relu6", "logistic", "swish", "mish"]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Any network whose maps go together; heads wherever they fit."""
    classes = draw(st.integers(1, 4))
    layers: list[Layer] = []
    shapes: list[tuple[int, int]] = []
    channels, side = 3, 64
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(
            st.sampled_from(
                ["convolution", "pool", "average", "dropout", "upsample", "shortcut", "scale", "route", "head"]
            )
        )
        alike = [i for i, shape in enumerate(shapes) if shape == (channels, side)]
        if kind == "convolution":
            size, stride = draw(st.sampled_from([1, 2, 3, 5])), draw(st.sampled_from([1, 2]))
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            normalize, activation = draw(st.booleans()), draw(st.sampled_from(OF_DARKNET))
            layers.append(Convolution(groups * draw(st.integers(1, 5)), size, stride, normalize, activation, groups))
            channels, side = layers[-1].filters, (side + 2 * (size // 2) - size) // stride + 1
        elif kind == "pool" and side % 2 == 0:
            size, stride = draw(st.sampled_from([(2, 1), (2, 2), (3, 1), (3, 2), (5, 1)]))
            layers.append(MaxPool(size, stride))
            side = (side - 1) // stride + 1
        elif kind == "average":
            layers.append(AveragePool())
            side = 1
        elif kind == "dropout":
            layers.append(Dropout(draw(st.integers(0, 9)) / 10))
        elif kind == "scale" and side == 1 and (wide := [i for i, shape in enumerate(shapes) if shape[0] == channels]):
            source = draw(st.sampled_from(wide))
            layers.append(ScaleChannels(source))
            side = shapes[source][1]
        elif kind == "upsample" and side < 64:
            layers.append(Upsample(2))
            side *= 2
        elif kind == "shortcut" and alike:
            layers.append(Shortcut(draw(st.sampled_from(alike))))
        elif kind == "route" and shapes:
            fitting = [i for i, shape in enumerate(shapes) if shape[1] == side]
            sources = draw(st.lists(st.sampled_from(fitting or [len(shapes) - 1]), min_size=1, max_size=3))
            layers.append(Route(tuple(sources)))
            channels, side = sum(shapes[i][0] for i in sources), shapes[sources[0]][1]
        elif kind == "head":
            layers += _head(draw, classes)
            channels = layers[-2].filters
            shapes.append((channels, side))
        if len(layers) > len(shapes):
            shapes.append((channels, side))
    layers += _head(draw, classes)
    names = tuple(f"class{i}" for i in range(classes))
    return Architecture("any", tuple(layers), names, 64, draw(st.sampled_from(["letterbox", "stretch"])))


def _head(draw: st.DrawFn, classes: int) -> list[Layer]:
    size = st.floats(0.01, 500, allow_nan=False)
    anchors = draw(st.lists(st.tuples(size, size), min_size=1, max_size=3))
    filters = len(anchors) * (5 + classes)
    return [Convolution(filters, 1, batch_normalize=False, activation="linear"), Yolo(tuple(anchors))]


@settings(deadline=None)
@given(architectures())
def test_any_network_comes_back_from_its_text_and_computes(
    tmp_path_factory: pytest.TempPathFactory, architecture: Architecture
) -> None:
    path = tmp_path_factory.mktemp("cfg") / "any.cfg"
    text = write_cfg(architecture)
    path.write_text(text)
    assert read_cfg(path, name="any") == architecture
    assert write_cfg(read_cfg(path)) == text
    with torch.device("meta"):
        Network(architecture).eval()(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Convolution(6, (3, 1)), "layers.0: size 3 x 1: Darknet has square convolutions only"),
        (
            Convolution(6, 3, (2, 1), pad=(33, 1)),
            "layers.0: Darknet's convolutions have one stride and one padding for both",
        ),
        (Convolution(6, 1, activation="hard_swish"), "layers.0: activation: Darknet has no hard_swish"),
    ],
)
def test_what_darknet_does_not_have_is_not_written(layer: Convolution, message: str) -> None:
    head = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((1, 2),)))
    with pytest.raises(InputError, match=f"^{message}"):
        write_cfg(Architecture("any", (layer, *head), ("cell",), 64))


@settings(deadline=None)
@given(st.text(alphabet="[]netyolo=,-0123456789\n#; widthshgrmaxpf", max_size=200))
def test_no_text_makes_reading_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("cfg") / "any.cfg"
    path.write_text(f"[net]\nwidth=32\nheight=32\n{text}")
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}"):
        read_cfg(path)


NET = "[net]\nwidth=64\nheight=64\n"
HEAD = "[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=1,2\nclasses=1\n"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", ":1:", r"expected \[net\] as the first section"),
        (HEAD, ":1:", r"expected \[net\] as the first section"),
        ("width=64\n", ":1:", r"expected \[net\] before the first option"),
        (
            f"[net]\nwidth=100\nheight=96\n[maxpool]\nstride=8\n[maxpool]\nstride=4\n{HEAD}",
            ":3:",
            "image size 100 x 96: expected a positive multiple of 32",
        ),
        ("[net]\nbatch=1\n", ":1:", "width=0, height=0"),
        ("[net]\nwidth=64\nheight=6_4\n", ":3:", "height: expected a whole number from 0 to 65536, got '6_4'"),
        (f"{NET}channels=1\n{HEAD}", ":4:", "channels: 1; only images of 3 channels"),
        (f"{NET}[convolution]\n", ":4:", r"unknown section \[convolution\]; did you mean 'convolutional'"),
        (f"{NET}[softmax]\n", ":4:", r"unknown section \[softmax\]; none of the \d+ known names is near"),
        (f"{NET}[crnn]\n", ":4:", r"\[crnn\] carries what it saw in one picture to the next"),
        (f"{NET}[region]\n", ":4:", r"\[region\] is the head of another detector"),
        (f"{NET}{NET}", ":4:", r"\[net\] may come once only"),
        (f"{NET}[convolutional]\nfilter=3\n", ":5:", "unknown option 'filter'; did you mean 'filters'"),
        (f"{NET}[convolutional]\nfilters=3\nfilters=4\n", ":6:", "filters: given twice, first in line 5"),
        (f"{NET}[convolutional]\nfilters\n", ":5:", "expected option=value, got 'filters'"),
        (f"{NET}[convolutional]\nfilters=3.5\n", ":5:", "filters: expected a whole number from 1 to 65536, got '3.5'"),
        (f"{NET}[convolutional]\nfilters=1000000000\n", ":5:", "filters: expected a whole number from 1 to 65536"),
        (f"{NET}[convolutional]\nfilters=4,4\n", ":5:", "filters: expected one number, got 2"),
        (f"{NET}[convolutional]\nactivation=elu\n", ":5:", "activation: elu; leaky, relu, linear, relu6, logistic"),
        (f"{NET}[avgpool]\n[dropout]\nprobability=1\n", ":6:", "probability: expected a number from 0 to below 1"),
        (f"{NET}[avgpool]\n[scale_channels]\nfrom=-1\nscale_wh=1\n", ":7:", "scale_wh: 1; only 0 is computed"),
        (f"{NET}[convolutional]\nantialiasing=1\n", ":5:", "antialiasing: 1; only 0 is computed"),
        (f"{NET}[convolutional]\nsize=3\ndilation=2\n", ":6:", "dilation: 2; computed with pad=1 and an odd size only"),
        (f"{NET}[convolutional]\nstride=2\nstride_x=1\n", ":6:", "stride_x: 1; only the stride, 2, is computed"),
        (f"{NET}[convolutional]\ngroups=2\nfilters=4\nactivation=leaky\n", ":4:", "2 groups do not divide 3 channels"),
        (f"{NET}[shortcut]\nfrom=-1\n", ":4:", "is the first layer"),
        (f"{NET}[maxpool]\n[shortcut]\n", ":5:", "expected the option from"),
        (f"{NET}[maxpool]\n[shortcut]\nfrom=-2\n", ":6:", "from: expected a whole number from -1 to 0, got '-2'"),
        (f"{NET}[maxpool]\n[route]\nlayers=-1,1\n", ":6:", "layers: expected a whole number from -1 to 0, got '1'"),
        (f"{NET}[maxpool]\nstride=2\n[maxpool]\nstride=2\n[route]\nlayers=0,1\n", ":9:", r"sides of \[16, 32\] pixels"),
        (
            f"{NET}[maxpool]\nstride=2\n[maxpool]\nstride=2\n[shortcut]\nfrom=0\n",
            ":8:",
            "cannot add 3 channels of 32 x",
        ),
        (f"{NET}[maxpool]\nsize=3\npadding=3\n", ":6:", "padding: expected a whole number from 0 to 2, got '3'"),
        (f"{NET}[maxpool]\n[route]\nlayers=0\ngroups=2\n", ":6:", "cannot take part 0 of 2 equal parts of 3 channels"),
        (f"{NET}[maxpool]\n[shortcut]\nfrom=-1\nactivation=elu\n", ":7:", "activation: elu; leaky, relu, linear"),
        (f"{NET}{HEAD}scale_x_y=0\n", ":10:", "scale_x_y: expected a number above 0, at most 16"),
        (f"{NET}{HEAD}new_coords=1\n", ":10:", r"new_coords: expected activation=logistic of the \[convolutional\]"),
        (f"{NET}{HEAD}scale_x_y=1e9\n", ":10:", "scale_x_y: expected a number, got '1e9'"),
        (NET + "[upsample]\nstride=32\n" * 3, ":6:", "gives 3 channels of 65536 x 65536 pixels"),
        (
            f"{NET}[conv]\nfilters=65536\nactivation=relu\n[route]\nlayers=0,0\n",
            ":8:",
            "gives 131072 channels of 64 x 64 pixels; expected at most 65536 of either",
        ),
        (f"{NET}[maxpool]\n", "", r"expected a \[yolo\] section"),
        (NET + HEAD.replace("filters=6", "filters=7"), ":7:", r"expects a \[convolutional\] of 6 filters before it"),
        (f"{NET}[yolo]\nanchors=1,2\n", ":4:", r"expects a \[convolutional\] of 25 filters before it"),
        (NET + HEAD.replace("1,2", "1,2,3"), ":8:", "anchors: expected pairs of positive numbers"),
        (NET + HEAD.replace("1,2", "1,nan"), ":8:", "anchors: expected pairs of positive numbers"),
        (NET + HEAD.replace("1,2", "0,2"), ":8:", "anchors: expected pairs of positive numbers"),
        (f"{NET}{HEAD}num=3\n", ":10:", "num: 3, but anchors has 1 pairs"),
        (f"{NET}{HEAD}mask=1\n", ":10:", "mask: expected a whole number from 0 to 0, got '1'"),
        (
            NET + HEAD + HEAD.replace("filters=6", "filters=7").replace("classes=1", "classes=2"),
            ":15:",
            "classes: 2, but 1",
        ),
    ],
)
def test_a_bad_description_is_one_line_with_its_place(tmp_path: Path, text: str, place: str, message: str) -> None:
    path = tmp_path / "bad.cfg"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_cfg(path)
    assert str(caught.value).startswith(f"{path}{place}")
    assert "\n" not in str(caught.value)


def test_more_layers_than_any_detector_has_are_refused_before_a_network_is_built(tmp_path: Path) -> None:
    path = tmp_path / "deep.cfg"
    path.write_text(NET + "[maxpool]\n" * 40_000)
    with pytest.raises(InputError, match=r"deep\.cfg:1004: \[maxpool\] is one layer too many: expected at most 1,000"):
        read_cfg(path)


def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.cfg"
    for content, message in (
        (b"\xff\xfe", "cannot be read as a cfg"),
        (b"#" * (LARGEST_FILE + 1), "more than 1048576"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_cfg(path)
    with pytest.raises(InputError, match="No such file"):
        read_cfg(tmp_path / "none.cfg")


def test_names_that_are_not_as_many_as_the_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_text(NET + HEAD)
    with pytest.raises(InputError, match=r"a\.cfg: has 1 classes, but 2 names are given"):
        read_cfg(tmp_path / "a.cfg", ["a", "b"])


# ---- weights


@pytest.mark.parametrize(
    ("name", "expected"), [("yolov3", 248_007_048), ("yolov3-tiny", 35_434_956), ("yolov3-spp", 252_209_544)]
)
def test_sizes_of_the_published_files(name: str, expected: int) -> None:
    assert weights_size(build_architecture(name, COCO, 416)) == expected


def test_size_of_the_published_backbone() -> None:
    assert weights_size(build_architecture("yolov3", COCO, 416), layers=75) == 162_482_580


def test_a_written_file_has_its_size(tmp_path: Path) -> None:
    architecture = build_architecture("yolov3-tiny", COCO, 416)
    write_weights(tmp_path / "tiny.weights", random_network(architecture))
    assert (tmp_path / "tiny.weights").stat().st_size == weights_size(architecture) == 35_434_956


@pytest.mark.parametrize("header", HEADERS)
def test_weights_come_back_byte_for_byte_under_both_kinds_of_header(tmp_path: Path, header: WeightsHeader) -> None:
    one, other = tmp_path / "one.weights", tmp_path / "other.weights"
    trained, read = random_network(SMALL), random_network(SMALL, seed=1)
    write_weights(one, trained, header)
    assert one.stat().st_size == weights_size(SMALL, header)
    assert read_weights(one, read) == header
    write_weights(other, read, header)
    assert one.read_bytes() == other.read_bytes()
    assert same_maps(trained, read, 64)


@pytest.mark.parametrize(("version", "size"), [((0, 1, 0), 16), ((0, 2, 0), 20), ((1, 0, 0), 20), ((1000, 2, 0), 16)])
def test_seen_has_64_bits_from_version_0_2_on(version: tuple[int, int, int], size: int) -> None:
    header = WeightsHeader(*version, seen=5)
    assert header.size == len(header.pack()) == size
    assert header.pack()[12:] == (5).to_bytes(size - 12, "little")


def test_numbers_lie_in_darknets_order(tmp_path: Path) -> None:
    head = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((1, 2),)))
    network = Network(Architecture("small", (Convolution(2, 1), *head), ("a",), 32))
    with torch.no_grad():
        for start, name in enumerate(
            ["norm.bias", "norm.weight", "norm.running_mean", "norm.running_var", "convolution.weight"]
        ):
            tensor = network.state_dict()[f"layers.0.{name}"]
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor) + 10 * start)
        for start, name in enumerate(["bias", "weight"], start=5):
            tensor = network.state_dict()[f"layers.1.convolution.{name}"]
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor) + 10 * start)
    write_weights(tmp_path / "a.weights", network)
    numbers = torch.frombuffer(bytearray((tmp_path / "a.weights").read_bytes()[20:]), dtype=torch.float32)
    counts = (2, 2, 2, 2, 2 * 3, 6, 6 * 2)
    assert numbers.tolist() == [10 * start + i for start, count in enumerate(counts) for i in range(count)]


def test_a_backbone_fills_the_beginning_and_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "tiny.conv.15"
    trained, fresh = random_network(SMALL), random_network(SMALL, seed=1)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    write_weights(path, trained, layers=15)
    read_weights(path, fresh, layers=15)
    for name, tensor in fresh.state_dict().items():
        if tensor.is_floating_point():
            source = trained.state_dict() if int(name.split(".")[1]) < 15 else before
            assert torch.equal(tensor, source[name]), name
    write_weights(tmp_path / "again", fresh, layers=15)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", IN_DARKNET)
def test_a_pruned_network_comes_back_with_the_same_outputs(tmp_path: Path, name: str) -> None:
    architecture = build_architecture(name, ["class0", "class1"], 64, width=1 / 3)
    removed = {i: 1 for group in coupled_convolutions(architecture)[::2] for i in group if i not in architecture.heads}
    pruned = replace(without_filters(architecture, removed), name="pruned", resize="stretch")
    assert pruned != architecture
    network = random_network(pruned)
    write_model(network, tmp_path / "pruned.cfg", tmp_path / "pruned.weights")
    model = read_model(tmp_path / "pruned.cfg", tmp_path / "pruned.weights", ["class0", "class1"])
    assert model.architecture == with_biases(pruned)
    assert same_maps(network, model.network, 64)


def weights_of(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "bad.weights").write_bytes(content)
    return tmp_path / "bad.weights"


@pytest.mark.parametrize("content", [b"", bytes(15), b"\0\0\0\0\2\0\0\0\0\0\0\0" + bytes(7)])
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"bad\.weights: too short for the header"):
        read_weights(weights_of(tmp_path, content), Network(SMALL))


@pytest.mark.parametrize("difference", [-100_000, -4, -1, 1, 4])
def test_a_file_that_is_too_short_or_too_long_says_by_how_much(tmp_path: Path, difference: int) -> None:
    write_weights(tmp_path / "good.weights", Network(SMALL))
    content = (tmp_path / "good.weights").read_bytes()
    found = len(content) + difference
    network, untouched = random_network(SMALL), random_network(SMALL)
    message = f"bad.weights: has {found} bytes, but yolov3-tiny with 2 classes takes {len(content)}$"
    with pytest.raises(InputError, match=message):
        read_weights(weights_of(tmp_path, (content + bytes(4))[:found]), network)
    assert same_maps(network, untouched, 64)


def test_a_file_of_other_classes_says_how_many(tmp_path: Path) -> None:
    others = build_architecture("yolov3-tiny", COCO[:20], 64, width=1 / 16)
    write_weights(tmp_path / "voc.weights", Network(others))
    with pytest.raises(InputError, match="it has the size of this network with 20 classes"):
        read_weights(tmp_path / "voc.weights", Network(SMALL))


def test_a_backbone_taken_for_a_whole_network_says_so(tmp_path: Path) -> None:
    write_weights(tmp_path / "tiny.conv.15", Network(SMALL), layers=15)
    with pytest.raises(InputError, match="it has the size of the first 15 layers, a backbone's"):
        read_weights(tmp_path / "tiny.conv.15", Network(SMALL))


def test_a_description_larger_than_its_weights_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    wide = "[convolutional]\nfilters=65536\nsize=63\npad=1\nactivation=leaky\n" * 2  # 10^15 bytes
    (tmp_path / "a.cfg").write_text(NET + wide + HEAD)
    with pytest.raises(InputError, match=r"bad\.weights: has 20 bytes, but a with 1 classes takes \d{14,}"):
        read_model(tmp_path / "a.cfg", weights_of(tmp_path, WeightsHeader().pack()), ["a"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.weights: cannot be read"):
        read_weights(tmp_path / "none.weights", Network(SMALL))
