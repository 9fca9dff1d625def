"""Bundles of before each layer had an encoding of its own: one key for the whole network, the same tensors."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detpress.detector.architecture import Architecture, Convolution, Shortcut, Yolo
from detpress.detector.encoding import Encoding
from detpress.detector.input_scale import InputScale
from detpress.detector.model import Model
from detpress.detector.network import Network, folded_but
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.encodings.dynamic_int8 import DynamicInt8
from detpress.encodings.half import Half
from detpress.encodings.int8 import Int8
from detpress.encodings.packed import Packed
from detpress.encodings.simulated import Grid, Simulated
from detpress.errors import InputError

ARCHITECTURE = Architecture(
    "few-layers",
    (
        Convolution(6, size=3, stride=2),
        Convolution(6, size=3),
        Shortcut(0),
        Convolution(7, size=1, batch_normalize=False, activation="linear"),
        Yolo(((8.0, 8.0),)),
    ),
    ("cat", "dog"),
    image_size=64,
)
GRID = {"lowest": 0, "highest": 15, "scale": 0.25, "zero_point": 3.5}
BETWEEN = {"layers.1.convolution": InputScale(0.05, 127), "layers.0": InputScale(0.02, 30)}

# What such a bundle said, and what it is read as.
OLD: dict[str, tuple[dict[str, Any], dict[int, Encoding]]] = {
    "quantization": (
        {
            "inputs": {"0": [1 / 255, 0], "1": [0.02, 30]},
            "between": {"layers.1.convolution": [0.05, 127], "layers.0": [0.02, 30]},
        },
        {0: Int8(InputScale(1 / 255, 0)), 1: Int8(InputScale(0.02, 30))},
    ),
    "simulation": (
        {"layers": {"0": {"weight_bits": 4, "input": None}, "1": {"weight_bits": 8, "input": GRID}}},
        {0: Simulated(4, None), 1: Simulated(8, Grid(0, 15, 0.25, 3.5))},
    ),
    "dynamic": ({"layers": [1, 3]}, {1: DynamicInt8(), 3: DynamicInt8()}),
    "half_precision": ({"dtype": "bf16", "layers": [0, 3]}, {0: Half("bf16"), 3: Half("bf16")}),
    "packing": (
        {"bits": 4, "group_size": 5, "symmetric": False, "layers": [0, 1]},
        {0: Packed(4, 5, False), 1: Packed(4, 5, False)},
    ),
}


def filled(key: str) -> Network:
    encodings = OLD[key][1] if key == "half_precision" else folded_but(ARCHITECTURE, OLD[key][1])
    network = Network(ARCHITECTURE, encodings, BETWEEN if key == "quantization" else {})
    generator = torch.Generator().manual_seed(0)
    state = {name: _drawn(name, tensor, generator) for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    return network.eval()


def _drawn(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.dtype in (torch.int8, torch.uint8):
        return tensor.random_(0, 128, generator=generator)
    numbers = torch.rand(tensor.shape, generator=generator)
    return (0.01 * numbers if name.endswith("scale") else numbers).to(tensor.dtype)


def rewritten(bundle: Path, change: Mapping[str, Any]) -> Path:
    """The bundle as it was written before, with digests that fit."""
    description = json.loads((bundle / "model.json").read_text())
    description = {key: value for key, value in description.items() if key not in ("encodings", "between")}
    (bundle / "model.json").write_text(json.dumps(description | change))
    names = ("model.json", "weights.safetensors")
    sums = [f"{hashlib.sha256((bundle / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (bundle / "SHA256SUMS").write_text("".join(sums))
    return bundle


@pytest.mark.parametrize("key", OLD)
def test_an_old_bundle_gives_the_same_model_bit_for_bit(key: str, images: Tensor, tmp_path: Path) -> None:
    model = Model(filled(key))
    save_bundle(model, tmp_path / "bundle")
    old = load_bundle(rewritten(tmp_path / "bundle", {key: OLD[key][0]}))
    assert (old.form, old.encodings) == (model.form, model.encodings)
    assert isinstance(old.network, Network)
    assert old.network.between == (BETWEEN if key == "quantization" else {})
    with torch.inference_mode():
        assert torch.equal(old.network(images)[0], model.network(images)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization": {"inputs": {"0": [0.1]}, "between": {}}}, "quantization: expected scales"),
        ({"quantization": {"inputs": {"2": [0.1, 0]}, "between": {}}}, r"layers\.2: encoded as Int8, but not a conv"),
        ({"quantization": {"inputs": {"x": [0.1, 0]}, "between": {}}}, "quantization: not the description"),
        ({"quantization": {"inputs": {}}}, "between is missing"),
        ({"simulation": {"layers": []}}, "simulation: not the description"),
        ({"simulation": {"layers": {"1": {}}}}, "weight_bits is missing"),
        ({"dynamic": {"layers": ["x"]}}, "dynamic: not the description"),
        ({"half_precision": {"dtype": "fp8", "layers": [0]}}, "no 16-bit type 'fp8'"),
        ({"packing": {"bits": 3, "group_size": 32, "symmetric": True, "layers": [0]}}, "no packing: 3 bits"),
        ({"dynamic": {"layers": [0]}, "encodings": {}}, "expected one of encodings and dynamic"),
        ({"encodings": []}, "encodings: expected an object"),
        ({"encodings": {"0": {"type": "int8"}}}, r"encodings: expected names such as layers\.3, got '0'"),
        ({"encodings": {"layers.0": "int8"}}, r"layers\.0: expected an object with a type"),
        ({"encodings": {"layers.0": {"type": "int9"}}}, r"layers\.0: unknown encoding 'int9'; did you mean 'int8'"),
        ({"encodings": {"layers.0": {"type": "int8"}}}, r"layers\.0: input is missing"),
        (
            {"encodings": {"layers.0": {"type": "packed", "bits": 4, "group_size": "x", "symmetric": True}}},
            "group_size: ",
        ),
        ({"encodings": {"layers.2": {"type": "dynamic_int8"}}}, r"layers\.2: encoded as DynamicInt8, but not a conv"),
        ({"between": {"layers.0": [0.1]}}, "between: expected scales"),
    ],
)
def test_what_describes_no_encodings_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_bundle(Model(filled("packing")), tmp_path / "bundle")
    with pytest.raises(InputError, match=message) as error:
        load_bundle(rewritten(tmp_path / "bundle", change))
    assert "\n" not in str(error.value)
