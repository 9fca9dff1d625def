"""One layer replaced by several: numbers, names, tensors."""

import json

import pytest
import torch

from detpress.detector.architecture import Architecture
from detpress.detector.kinds import Convolution, Route, Shortcut, Yolo
from detpress.detector.layer_patterns import matching_layers
from detpress.detector.network import Network
from detpress.detector.replacement import replace_layer
from detpress.errors import InputError
from detpress.measure.size import layer_table

HEAD = (Convolution(6, 1, batch_normalize=False, activation="linear"), Yolo(((10, 10),)))
WHOLE = Architecture(
    "any",
    (Convolution(8, 3), Convolution(8, 3), Convolution(8, 1), Shortcut(1), Route((3, 0)), *HEAD),
    ("cell",),
    64,
)
TWO = (Convolution(4, (3, 1), batch_normalize=False, activation="linear"), Convolution(8, (1, 3)))


def test_what_refers_to_a_layer_behind_is_renumbered() -> None:
    replaced = replace_layer(WHOLE, 1, TWO)
    layers = replaced.architecture.layers
    assert [layer.refers_to for layer in layers] == [(), (), (), (), (2,), (4, 0), (), ()]
    assert [replaced.number(i) for i in range(7)] == [0, 2, 3, 4, 5, 6, 7]


def test_layers_keep_their_names_and_patterns_their_meaning() -> None:
    once = replace_layer(WHOLE, 1, TWO).architecture
    assert once.names == (
        "layers.0", "layers.1.0", "layers.1.1", "layers.2", "layers.3", "layers.4", "layers.5", "layers.6",
    )  # fmt: skip
    assert [row.name for row in layer_table(once)] == list(once.names)
    assert matching_layers(["layers.1"], once.names, "layers") == ["layers.1.0", "layers.1.1"]
    assert matching_layers(["layers.?"], once.names, "layers") == list(once.names)
    assert matching_layers(["layers.2"], once.names, "layers") == ["layers.2"]
    twice = replace_layer(once, 2, TWO).architecture
    assert twice.names[:4] == ("layers.0", "layers.1.0", "layers.1.1.0", "layers.1.1.1")
    assert matching_layers(["layers.1.1"], twice.names, "layers") == ["layers.1.1.0", "layers.1.1.1"]


def test_names_are_in_the_file_where_they_are_not_the_number() -> None:
    architecture = replace_layer(WHOLE, 1, TWO).architecture
    data = json.loads(json.dumps(architecture.as_dict()))
    assert ["name" in layer for layer in data["layers"]] == [False, *[True] * 7]
    assert Architecture.from_dict(data) == architecture
    data["layers"][3]["name"] = "layers.0"
    with pytest.raises(InputError, match=r"^two layers are called 'layers.0'"):
        Architecture.from_dict(data)
    data["layers"][3]["name"] = ""
    with pytest.raises(InputError, match=r"^layer 3: name: expected a text, got ''"):
        Architecture.from_dict(data)


def test_one_layer_for_another_changes_no_number_and_no_name() -> None:
    narrower = replace_layer(WHOLE, 2, [Convolution(8, 3)]).architecture
    assert narrower.layers == (*WHOLE.layers[:2], Convolution(8, 3), *WHOLE.layers[3:])


def test_tensors_and_masks_go_with_their_layers() -> None:
    """A convolution of 3 x 3 of rank one is one of 3 x 1 and one of 1 x 3: the same maps."""
    torch.manual_seed(0)
    whole = Network(WHOLE).eval()
    column, row = torch.rand(1, 8, 3, 1), torch.rand(8, 1, 1, 3)
    with torch.no_grad():
        whole.get_parameter("layers.1.convolution.weight").copy_(row * column)
    replaced = replace_layer(WHOLE, 1, [Convolution(1, (3, 1), 1, False, "linear"), Convolution(8, (1, 3))])
    tensors = replaced.renamed(whole.state_dict())
    assert not any(name.startswith(("layers.1.", "layers.2.")) for name in tensors)
    state = Network(replaced.architecture).state_dict()
    state |= {name.replace("layers.1.", "layers.2."): t for name, t in whole.state_dict().items() if ".1.norm" in name}
    state |= {"layers.1.convolution.weight": column, "layers.1.convolution.bias": torch.zeros(1)}
    state |= {"layers.2.convolution.weight": row} | tensors
    separable = Network(replaced.architecture).eval()
    separable.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(whole(image)[0], separable(image)[0], atol=1e-5)


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="layer 5: cannot concatenate maps with sides of"):
        replace_layer(WHOLE, 1, [Convolution(8, 3), Convolution(8, 1, 2)])
