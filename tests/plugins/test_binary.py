"""`binary`: which layers have one bit a weight. That a kill changes no bit: `test_killed_packers`."""

import pytest

from detpress.detector.architecture import build_architecture
from detpress.detector.folding import stored_weight
from detpress.detector.model import Model, new_model
from detpress.detector.network import convolution_of
from detpress.errors import InputError
from detpress.plugins.binary import Connect, ConnectOptions, OneBit, Weights, Xnor, XnorOptions
from detpress.training.config import TrainingConfig

TRAINING = TrainingConfig(epochs=1)


@pytest.fixture(scope="module")
def model() -> Model:
    return new_model(build_architecture("yolov3-tiny", ("a", "b"), 96, width=0.1), seed=0)


@pytest.mark.parametrize("plugin", [Connect(), Weights()], ids=["connect", "weights"])
def test_all_but_the_first_convolution_and_the_heads_have_a_bit_a_weight(plugin: OneBit, model: Model) -> None:
    planned = plugin.plan(model, plugin.Config(training=TRAINING)).model
    in_float = (0, *model.architecture.heads)
    for i in planned.encodings:
        weight = stored_weight(planned.own_network, i)
        if i in in_float:
            assert weight.unique().numel() > 2 * len(weight)
        else:
            assert all(one.abs().unique().numel() == 1 for one in weight)
            assert convolution_of(planned.network, i).state_dict()["signs"].nbytes == -(-weight.numel() // 8)


def test_what_does_not_fit_is_refused_before(model: Model) -> None:
    plan = Connect().plan(model, ConnectOptions(exclude=["layers.2"], training=TRAINING))
    assert len(plan.layers) == len(model.encodings) - 2 - len(model.architecture.heads)
    with pytest.raises(InputError, match=r"^exclude: no convolution is left"):
        Xnor().plan(model, XnorOptions(exclude=["*"], training=TRAINING))


def test_of_one_channel_nothing_is_left_without_their_mean_so_it_stays_in_float() -> None:
    """At this width layers 1 and 3 of YOLOv3 take a single map."""
    model = new_model(build_architecture("yolov3", ("a", "b"), 96, width=0.03125), seed=0)
    config = {"training": TRAINING}
    left = set(Connect().plan(model, ConnectOptions(**config)).layers)
    assert left - set(Weights().plan(model, Weights.Config(**config)).layers) == {"layers.1", "layers.3"}
