"""What the report says of each layer's weights."""

from pathlib import Path

import pytest
import torch

from detpress.detector.architecture import Convolution, build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.detector.network import Network
from detpress.encodings.bundle import save_bundle
from detpress.encodings.packed import Packed
from detpress.encodings.simulated import Codes, simulated_network
from detpress.report.layers import layer_states


def tiny() -> Model:
    return new_model(build_architecture("yolov3-tiny", ["cat"], 32, width=0.0625), seed=0)


def test_a_layer_of_codes_shows_its_bits_and_the_weights_that_are_zero(tmp_path: Path) -> None:
    """Half of the codes are 8, which stands for zero; a code 0 stands for -8."""
    model = tiny()
    assert isinstance(model.network, Network)
    weight = model.network.get_parameter("layers.0.convolution.weight")
    codes = torch.full_like(weight, 8.0)
    codes[..., 0] = 0.0
    filters = weight.shape[0]
    layer = Codes(codes, 0, 15, 4, torch.ones(filters), torch.full((filters,), 8.0), None, folded=True)
    save_bundle(model.with_network(simulated_network(model.network, {0: layer}), Form.SIMULATED), tmp_path / "bundle")
    states = layer_states(tmp_path / "bundle")
    assert states["layers.0"].bits == 4
    assert states["layers.0"].zeros == pytest.approx(2 / 3)
    assert states["layers.2"].bits == 32


def test_packed_layers_are_shown_with_their_bits(tmp_path: Path) -> None:
    model = tiny()
    packed = Network(model.architecture, {0: Packed(4, 32, symmetric=True)})
    save_bundle(model.with_network(packed.eval().requires_grad_(False), Form.PACKED), tmp_path / "bundle")
    states = layer_states(tmp_path / "bundle")
    assert states["layers.0"].bits == 4
    layers = enumerate(model.architecture.layers)
    assert states.keys() == {f"layers.{i}" for i, layer in layers if isinstance(layer, Convolution)}
