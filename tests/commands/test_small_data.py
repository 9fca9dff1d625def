"""What a step asks of the data set is known before the work: defaults take what there is, all else is refused."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Command

RECIPE = """\
name: few
data: {root: digits}
model: {arch: yolov3-tiny, width: 0.0625, image_size: 64, weights: BUNDLE}
chain:
  - STEP
measure: {runtimes: [torch], memory: false}
"""


@pytest.fixture
def step(workplace: Path, bundle: Path) -> Path:
    """A recipe of one step, which a test puts in with `with_step`."""
    shutil.copytree(bundle, workplace / "tiny")
    recipe = workplace / "few.yaml"
    recipe.write_text(RECIPE.replace("BUNDLE", "tiny"))
    return recipe


def with_step(recipe: Path, text: str) -> str:
    recipe.write_text(recipe.read_text().replace("STEP", text))
    return recipe.name


def test_a_default_number_of_calibration_images_takes_what_there_is(detpress: Command, step: Path) -> None:
    said = detpress("run", with_step(step, "inc.static_int8"), "--json")
    assert said.code == 0, said.err
    (note,) = said.json["stages"][1]["notes"]
    assert note == "8 calibration images, all there are, instead of 64"


@pytest.mark.parametrize(
    ("command", "plugin"),
    [
        ("run", "inc.static_int8: {calibration_images: 9}"),
        ("validate", "inc.weight_only: {algorithm: gptq, calibration_images: 9}"),
        ("validate", "inc.qat: {epochs: 1, calibration_images: 9}"),
        ("validate", "inc.autotune: {sensitivity_images: 9}"),
        ("validate", "nni.ptq: {calibration_images: 9}"),
        ("validate", "nni.qat: {training: {epochs: 1}, calibration_images: 9}"),
    ],
)
def test_a_number_of_images_that_is_not_there_is_refused_before_the_work(
    detpress: Command, step: Path, cache: Path, command: str, plugin: str
) -> None:
    said = detpress(command, with_step(step, plugin))
    name, option = plugin.partition(":")[0], "sensitivity" if "sensitivity" in plugin else "calibration"
    assert said.code == 2
    assert said.err.endswith(
        f"detpress: few.yaml:5: chain[0].{name}.{option}_images: 9 asked for, but the image set 'train' has 8\n"
    )
    assert not (cache / "store").exists()


@pytest.mark.parametrize(
    ("plugin", "option"),
    [
        ("train.finetune: {epochs: 1, objectness_weights: [1.0]}", "objectness_weights"),
        ("nni.qat: {training: {epochs: 1, objectness_weights: [1.0]}}", "training.objectness_weights"),
    ],
)
def test_a_scale_without_an_objectness_weight_is_refused_before_the_work(
    detpress: Command, step: Path, plugin: str, option: str
) -> None:
    said = detpress("validate", with_step(step, plugin))
    name = plugin.partition(":")[0]
    assert said.code == 2
    assert said.err.endswith(f"detpress: few.yaml:5: chain[0].{name}.{option}: 1 for a network of 2 scales\n")


@pytest.fixture
def no_validation_set(workplace: Path, digits: Path) -> None:
    (workplace / "digits").unlink()
    shutil.copytree(digits, workplace / "digits")
    (workplace / "digits/ImageSets/Main/val.txt").unlink()


@pytest.mark.usefixtures("no_validation_set")
def test_no_validation_set_is_needed_where_nothing_chooses_by_it(detpress: Command, step: Path) -> None:
    said = detpress("run", with_step(step, "train.finetune: {epochs: 1}"))
    assert said.code == 0, said.err


@pytest.mark.usefixtures("no_validation_set")
def test_a_step_that_chooses_by_validation_images_needs_them(detpress: Command, step: Path, cache: Path) -> None:
    said = detpress("validate", with_step(step, "inc.autotune"))
    assert said.code == 2
    assert said.err.endswith(
        "detpress: few.yaml:5: chain[0].inc.autotune: needs validation images with objects, "
        "and data.val names no set that has some\n"
    )
    assert not (cache / "store").exists()


@pytest.mark.usefixtures("no_validation_set")
def test_the_best_epoch_cannot_be_chosen_without_validation_images(detpress: Command, step: Path, cache: Path) -> None:
    said = detpress("validate", with_step(step, "train.finetune: {epochs: 1, choose: best}"))
    assert said.code == 2
    assert said.err.endswith(
        "detpress: few.yaml:5: chain[0].train.finetune.choose: best needs validation images with objects, "
        "and data.val names no set that has some\n"
    )
    assert not (cache / "store").exists()


@pytest.mark.usefixtures("no_validation_set")
def test_a_search_needs_validation_images(detpress: Command, step: Path, cache: Path) -> None:
    recipe = with_step(step, "nni.l1norm: {sparsity: 0.5}")
    search = (
        "search: {space: {'chain[0].sparsity': {uniform: [0.1, 0.9]}}, trials: 2, maximize: map, tuner: nni.random}"
    )
    step.write_text(f"{step.read_text()}{search}\n")
    said = detpress("run", recipe)
    assert said.code == 2
    assert "detpress: few.yaml:7: search: needs validation images" in said.err
    assert not (cache / "store").exists()


@pytest.fixture
def emptied(workplace: Path, digits: Path) -> Callable[[int], None]:
    """Takes the objects out of the first so many training images."""
    (workplace / "digits").unlink()
    shutil.copytree(digits, workplace / "digits")

    def empty(count: int) -> None:
        names = (workplace / "digits/ImageSets/Main/train.txt").read_text().split()
        for name in names[:count]:
            path = workplace / f"digits/Annotations/{name}.xml"
            path.write_text(re.sub(r"<object>.*</object>", "", path.read_text(), flags=re.DOTALL))

    return empty


@pytest.mark.parametrize("command", ["run", "validate"])
def test_training_images_without_any_object_are_refused_before_the_training(
    detpress: Command, step: Path, emptied: Callable[[int], None], cache: Path, command: str
) -> None:
    emptied(8)
    said = detpress(command, with_step(step, "train.finetune: {epochs: 1}"))
    assert said.code == 2
    assert said.err.endswith(
        "detpress: few.yaml:5: chain[0].train.finetune: the image set 'train' holds no object to learn\n"
    )
    assert not (cache / "store").exists()


def test_the_log_says_how_many_training_images_hold_no_object(
    detpress: Command, step: Path, emptied: Callable[[int], None]
) -> None:
    emptied(3)
    said = detpress("run", with_step(step, "train.finetune: {epochs: 1}"))
    assert said.code == 0, said.err
    log = Path("runs/few/1-train.finetune/stage.log").read_text()
    assert "training images: 5 with objects to learn, 3 without" in log
