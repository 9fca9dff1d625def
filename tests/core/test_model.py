"""A model with another network keeps what still holds of it."""

import copy
from dataclasses import replace

import pytest
import torch

from detpress.detector.architecture import build_architecture
from detpress.detector.form import Form
from detpress.detector.model import Model, new_model
from detpress.errors import StageError

WEIGHT = "layers.2.convolution.weight"


@pytest.fixture
def masked() -> Model:
    model = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.125), seed=0)
    mask = torch.zeros_like(model.network.get_parameter(WEIGHT), dtype=torch.bool)
    return replace(model, masks={WEIGHT: mask}, history=({"plugin": "one"},), notes=("said",))


def test_form_masks_history_and_notes_are_kept(masked: Model) -> None:
    network = copy.deepcopy(masked.network)
    assert masked.with_network(network) == replace(masked, network=network)


def test_another_form_has_no_masks_unless_they_are_given(masked: Model) -> None:
    dense = masked.with_network(masked.network, Form.DENSE)
    assert (dense.form, dense.masks, dense.history, dense.notes) == (Form.DENSE, {}, masked.history, masked.notes)
    again = dense.with_network(dense.network, Form.MASKED, masked.masks)
    assert (again.form, again.masks) == (Form.MASKED, masked.masks)


def test_masks_that_no_longer_fit_are_not_dropped_in_silence(masked: Model) -> None:
    wider = new_model(build_architecture("yolov3-tiny", ["cat"], 64, width=0.25), seed=0).network
    with pytest.raises(StageError, match=rf"the mask of {WEIGHT} does not fit the new network"):
        masked.with_network(wider)
