"""A student that starts trained keeps what it knows: losses are in proportion, and new adapters do no harm."""

import logging
from dataclasses import replace
from typing import Any

import pytest

from detpress.builtin import find_bundle
from detpress.contract.registry import load_plugin
from detpress.detector.kinds import Convolution
from detpress.detector.model import Model
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle
from detpress.measure.section import Measure
from detpress.recipe.sections import Data
from detpress.run.workbench import StageWorkbench
from detpress.voc.devkit import open_devkit
from detpress.voc.digits import write_digits

TEACHER = "builtin:digits"
TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 0.001, "augmentation": {"flip_horizontal": 0.0}}
PRUNED, TAKING = 79, (80, 84)  # a layer, and those that take its map
TOLERANCE = 0.02  # 64 images: a few objects more or less


@pytest.fixture(scope="module")
def trained() -> Model:
    """The teacher without an eighth of what its first head takes, so that one link of three has an adapter."""
    model = load_bundle(find_bundle(TEACHER))
    scale = model.network.get_parameter(f"layers.{PRUNED}.norm.weight").abs()
    kept = scale.argsort(descending=True)[: len(scale) * 7 // 8].sort().values
    tensors = model.network.state_dict()
    for name, tensor in tensors.items():
        if name.startswith(f"layers.{PRUNED}.") and tensor.ndim:
            tensors[name] = tensor[kept]
        elif name in [f"layers.{taking}.convolution.weight" for taking in TAKING]:
            tensors[name] = tensor[:, kept]
    layers = list(model.architecture.layers)
    pruned = layers[PRUNED]
    assert isinstance(pruned, Convolution)
    layers[PRUNED] = pruned.with_filters(len(kept))
    network = Network(replace(model.architecture, layers=tuple(layers)))
    network.load_state_dict(tensors)
    return Model(network.eval())


@pytest.fixture(scope="module")
def bench(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> StageWorkbench:
    folder = tmp_path_factory.mktemp("trained")
    write_digits(folder / "digits", {"train": 32, "val": 64, "test": 1})
    devkit = open_devkit(folder / "digits", trained.architecture.classes)
    return StageWorkbench(
        0,
        folder,
        logging.getLogger("tests.distill"),
        lambda *_: None,
        devkit,
        Data(root=str(folder / "digits")),
        Measure(runtimes=["torch"], threads=1, memory=False),
        architecture=trained.architecture,
        bundles=(TEACHER,),
    )


@pytest.fixture(scope="module")
def before(trained: Model, bench: StageWorkbench) -> float:
    return float(bench.evaluate(trained))


@pytest.mark.parametrize(
    "name", ["distill.hinton", "distill.pkd", "distill.crosskd", "distill.detector", "distill.chen"]
)
def test_after_its_first_epoch_a_trained_student_is_not_worse_than_before(
    name: str, trained: Model, bench: StageWorkbench, before: float
) -> None:
    plugin: Any = load_plugin(name)
    config = plugin.Config.model_validate({"teacher": TEACHER, "training": TRAINING})
    assert before > 0.8
    assert float(bench.evaluate(plugin.apply(trained, config, bench))) >= before - TOLERANCE
