"""A recipe is checked whole before anything is computed: one line a mistake, each with file, line and key."""

from pathlib import Path

import pytest

from detpress.errors import InputError
from detpress.recipe.file import find_recipe, read_recipe, shipped_recipes
from detpress.study.definition import shipped_studies

GOOD = """\
name: small
data: {root: "builtin:digits"}
model: {arch: yolov3, width: 0.125, image_size: 160}
chain:
  - nni.l1norm: {sparsity: 0.5}
  - nni.speedup
  - train.finetune: {epochs: 1}
  - inc.static_int8: {calibration_images: 8}
measure: {protocol: voc07, runtimes: [torch]}
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(old: str = "", new: str = "") -> Path:
        assert old in GOOD
        path = tmp_path / "small.yaml"
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD)
        return path

    return write


def mistakes(path: Path, *assignments: str) -> list[str]:
    with pytest.raises(InputError) as error:
        read_recipe(path, assignments)
    return str(error.value).replace(str(path), "small.yaml").splitlines()


def test_a_good_recipe_is_read_with_every_default_spelled_out(written) -> None:
    recipe = read_recipe(written())
    assert [step.name for step in recipe.chain] == ["nni.l1norm", "nni.speedup", "train.finetune", "inc.static_int8"]
    assert recipe.as_dict()["measure"]["iou"] == 0.5


def test_every_shipped_recipe_is_good() -> None:
    assert {"quickstart", "blood-cells", "train-digits", "voc"} <= set(shipped_recipes())
    for path in shipped_recipes().values():
        read_recipe(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sparsity", "sparcity", "small.yaml:5: chain[0].nni.l1norm.sparcity: unknown key; did you mean 'sparsity'?"),
        ("nni.l1norm", "nni.l1nrom", "small.yaml:5: chain[0]: unknown plugin 'nni.l1nrom'; did you mean 'nni.l1norm'?"),
        ("image_size", "imagesize", "small.yaml:3: model.imagesize: unknown key; did you mean 'image_size'?"),
        ("[torch]", "[torch, torch]", "small.yaml:9: measure.runtimes: expected each runtime once, got ['torch', 'tor"),
        ("0.125", "wide", "small.yaml:3: model.width: expected a valid number, got 'wide'"),
        ("yolov3,", "yolo3,", "small.yaml:3: model.arch: unknown architecture 'yolo3'; did you mean 'yolov3'?"),
        ("160", "100", "small.yaml:3: model.image_size: expected a multiple of 32, got 100"),
        ("name: small", "name: ../small", "small.yaml:1: name: "),
        ("- nni.speedup", "- nni.speedup: {}\n    x: 1", "small.yaml:6: chain[1]: expected one plugin with its "),
        ('"builtin:digits"', "../other", "small.yaml:2: data.root: '../other' climbs out of the recipe's folder"),
        ("{epochs: 1}", "{epochs: -1}", "small.yaml:7: chain[2].train.finetune.epochs: "),
        (
            "{epochs: 1}",
            "{epochs: 1, augmentation: {learning_rate: 0.1}}",
            "small.yaml:7: chain[2].train.finetune.augmentation.learning_rate: unknown key; "
            "did you mean chain[2].train.finetune.learning_rate?",
        ),
        (
            "{epochs: 1}",
            "{epochs: 1, mosaic: 0.5}",
            "small.yaml:7: chain[2].train.finetune.mosaic: unknown key; "
            "did you mean chain[2].train.finetune.augmentation.mosaic?",
        ),
    ],
)
def test_one_mistake_gives_one_line_with_its_place(written, old: str, new: str, message: str) -> None:
    lines = mistakes(written(old, new))
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_keys_that_contradict_each_other_are_told_without_all_the_others(written) -> None:
    [line] = mistakes(written("{epochs: 1}", "{epochs: 1, schedule: one_cycle, warmup: 0.1}"))
    assert line.endswith(": warmup: expected none beside `schedule: one_cycle`, got 0.1")


def test_a_missing_section_is_named(written) -> None:
    assert mistakes(written('data: {root: "builtin:digits"}\n')) == ["small.yaml:1: data: missing"]


def test_all_mistakes_are_told_at_once(written) -> None:
    path = written("{sparsity: 0.5}", "{sparcity: 0.5}")
    assert len(mistakes(path, "seed=x", "chain[3].calibration_image=1")) == 3


def test_forms_that_do_not_fit_are_refused(written) -> None:
    path = written("  - nni.speedup\n")
    assert mistakes(path, "chain[1]={inc.static_int8: {}}") == [
        "--set chain[1]={inc.static_int8: {}}: chain[1].inc.static_int8: "
        "takes a dense model, but after nni.l1norm it is masked"
    ]


def test_a_mistake_in_set_names_the_assignment(written) -> None:
    assert mistakes(written(), "chain[0].sparsity=2")[0].startswith(
        "--set chain[0].sparsity=2: chain[0].nni.l1norm.sparsity: expected "
    )


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="no recipe 'quikstart'; did you mean 'quickstart'"):
        find_recipe("quikstart")


def test_a_study_is_no_recipe_and_the_command_for_it_is_named() -> None:
    with pytest.raises(
        InputError, match=r"claims.yaml:\d+: recipes: expected a recipe, and this is a study: `detpress c"
    ):
        read_recipe(shipped_studies()["claims"])


def test_a_relative_data_folder_starts_at_the_recipe_and_one_given_by_set_at_the_working_directory(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written('"builtin:digits"', "mine")
    assert read_recipe(path).data.root == str(tmp_path / "mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(read_recipe(path, ["data.root=../mine"]).data.root).resolve() == tmp_path / "mine"


def test_a_teacher_is_looked_for_beside_the_recipe_like_its_other_paths(tmp_path: Path) -> None:
    path = tmp_path / "distil.yaml"
    path.write_text(
        "name: distil\n"
        "data: {root: 'builtin:digits'}\n"
        "model: {weights: 'builtin:digits'}\n"
        "chain:\n"
        "  - nni.dynamic_layerwise: {teacher: bundles/teacher, training: {epochs: 1}}\n"
    )
    [step] = read_recipe(path).chain
    assert step.config.teacher == str(tmp_path / "bundles/teacher")
    [step] = read_recipe(path, ["chain[0].teacher=mine"]).chain
    assert step.config.teacher == str(Path("mine").absolute())
    with pytest.raises(InputError, match=r"climbs out of the recipe's folder; .*--set chain\[0\]\.teacher=PATH"):
        read_recipe(_rewritten(path, "bundles/teacher", "../teacher"))


def _rewritten(path: Path, old: str, new: str) -> Path:
    path.write_text(path.read_text().replace(old, new))
    return path


@pytest.mark.parametrize(
    ("required", "said"),
    [
        (
            "{my-package: '>=0.1'}",
            "my-package: my-package is not installed, the recipe requires >=0.1: pip install 'my-package>=0.1'",
        ),
        (
            "{pytest: '<1'}",
            f"pytest: pytest is installed as {pytest.__version__}, the recipe requires <1: pip install 'pytest<1'",
        ),
        (f"{{pytest: {'y' * 5000}}}", f"pytest: expected versions such as \">=0.1\", got '{'y' * 39}...{'y' * 19}'"),
        ("{pytest: newest}", "pytest: expected versions such as \">=0.1\", got 'newest'"),
    ],
)
def test_a_package_that_a_recipe_requires_and_is_not_there_is_named_with_its_pip_install(
    required: str, said: str, written
) -> None:
    assert mistakes(written("chain:", f"requires: {required}\nchain:")) == [f"small.yaml:4: requires.{said}"]
    read_recipe(written("chain:", "requires: {pytest: '>1'}\nchain:"))
