"""The distillers of a recipe: which layers learn from which, and whose teacher."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from detpress.detector.architecture import Architecture, build_architecture
from detpress.detector.model import new_model
from detpress.encodings.bundle import save_bundle
from detpress.errors import InputError
from detpress.plugins.nni_distill import (
    Adaptive1dLayerwise,
    AdaptiveDistillation,
    DynamicDistillation,
    DynamicLayerwise,
)
from detpress.recipe.file import read_recipe
from detpress.run.keys import stage_key
from detpress.training.config import TrainingConfig

TRAINING = TrainingConfig(epochs=1)
WIDE = {"teacher": "builtin:digits", "training": TRAINING}


def network(width: float, name: str = "yolov3", classes: int = 3) -> Architecture:
    return build_architecture(name, [f"class{i}" for i in range(classes)], 96, width)


def test_by_default_heads_learn_raw_maps_and_what_is_before_them_channels() -> None:
    student, teacher = network(0.0625), network(0.125)
    dynamic = DynamicLayerwise().links(student, teacher, DynamicDistillation(**WIDE))
    assert dynamic == {81: [81], 93: [93], 105: [105]}
    adaptive = Adaptive1dLayerwise().links(student, teacher, AdaptiveDistillation(**WIDE))
    assert adaptive == {80: [80], 92: [92], 104: [104]}


def test_links_name_layers_of_both_networks() -> None:
    tiny, teacher = network(0.5, "yolov3-tiny"), network(0.125)
    config = AdaptiveDistillation(links={"layers.14": "layers.80", "layers.21": "layers.92"}, **WIDE)
    assert Adaptive1dLayerwise().links(tiny, teacher, config) == {14: [80], 21: [92]}
    several = DynamicDistillation(links={"layers.81": ["layers.81"], "layers.80": ["layers.78", "layers.80"]}, **WIDE)
    assert DynamicLayerwise().links(teacher, teacher, several) == {81: [81], 80: [78, 80]}


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            replace(network(0.125), classes=("class1", "class0", "class2")),
            "the classes class0, class1, class2, those of the teacher's layers.81 class1, class0, class2",
        ),
        (
            build_architecture("yolov3", network(1.0).classes, 96, 0.125, [(10.0 + i, 20.0) for i in range(9)]),
            "36x45.6923, 86.0769x75.2308, those of the teacher's layers.81 16x20, 17x20, 18x20",
        ),
        (network(0.125, classes=4), "those of the teacher's layers.81 class0, class1, class2, class3; expected"),
    ],
)
def test_raw_maps_are_linked_only_where_their_channels_mean_the_same(teacher: Architecture, message: str) -> None:
    student = network(0.0625)
    with pytest.raises(InputError, match=re.escape(message)):
        DynamicLayerwise().links(student, teacher, DynamicDistillation(**WIDE))
    before_heads = Adaptive1dLayerwise().links(student, teacher, AdaptiveDistillation(**WIDE))
    assert before_heads == {80: [80], 92: [92], 104: [104]}


@pytest.mark.parametrize(
    ("links", "message"),
    [
        (
            {"layers.4": ["layers.0"]},
            r"links: 'layers\.4' is no convolution, pooling or upsampling layer; did you mean",
        ),
        ({"layers.0": ["layers.999"]}, r"links\.layers\.0: 'layers\.999' is no convolution"),
        ({"layers.0": ["layers.1"]}, r"layers\.0 gives maps of 96 x 96, the teacher's layers\.1 of 48 x 48"),
        ({"layers.0": ["layers.0"]}, r"layers\.0 gives 2 channels, the teacher's layers\.0 4; expected as many"),
    ],
)
def test_links_that_do_not_fit_are_refused(links: dict, message: str) -> None:
    """Layer 4 is a shortcut, which calls no module."""
    with pytest.raises(InputError, match=message):
        DynamicLayerwise().links(network(0.0625), network(0.125), DynamicDistillation(links=links, **WIDE))


def test_heads_of_other_classes_or_numbers_are_refused() -> None:
    config = DynamicDistillation(**WIDE)
    with pytest.raises(InputError, match="expected the same in the same order, or links before the heads"):
        DynamicLayerwise().links(network(0.0625), network(0.125, classes=4), config)
    with pytest.raises(InputError, match="links: expected, as the student has 2 heads and the teacher 3"):
        DynamicLayerwise().links(network(0.5, "yolov3-tiny"), network(0.125), config)


@pytest.mark.parametrize("options", [{}, {"weight": 0.0}, {"detection_weight": -1.0}, {"loss": "l1"}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        DynamicDistillation.model_validate(options | ({"teacher": "t", "training": {"epochs": 1}} if options else {}))


def test_a_teacher_that_is_not_there_is_one_clear_error() -> None:
    model = new_model(network(0.0625), seed=0)
    with pytest.raises(InputError, match="no shipped bundle 'builtin:digit'; did you mean 'digits'"):
        DynamicLayerwise().plan(model, DynamicDistillation(teacher="builtin:digit", training=TRAINING))


def test_another_teacher_of_the_same_name_is_another_stage(tmp_path: Path) -> None:
    text = """
name: distil
data: {root: "builtin:digits"}
model: {arch: yolov3, width: 0.0625, image_size: 96}
chain:
  - nni.dynamic_layerwise: {teacher: TEACHER, training: {epochs: 1}}
"""
    (tmp_path / "recipe.yaml").write_text(text.replace("TEACHER", str(tmp_path / "teacher")))
    recipe = read_recipe(tmp_path / "recipe.yaml")
    keys = []
    for seed in (0, 1, 0):
        save_bundle(new_model(network(0.125), seed), tmp_path / "teacher")
        keys.append(stage_key(["parent"], recipe.chain[0], recipe, "fingerprint"))
        (tmp_path / "teacher").rename(tmp_path / f"was-{len(keys)}")
    assert keys[0] == keys[2] != keys[1]
    with pytest.raises(InputError, match="not a bundle"):
        stage_key(["parent"], recipe.chain[0], recipe, "fingerprint")
