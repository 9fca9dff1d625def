"""A study is checked whole before anything is computed: one line a mistake, each with file, line and key."""

from pathlib import Path

import pytest

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.doors import installed_version
from detpress.encodings.bundle import save_bundle
from detpress.errors import InputError
from detpress.recipe.file import Recipe, read_recipe
from detpress.recipe.yaml_source import read_yaml
from detpress.run.initial_model import initial_model
from detpress.run.keys import chain_keys
from detpress.study.definition import Study, open_studies, read_study, shipped_studies
from detpress.voc.digits import CLASSES, write_digits
from detpress.voc.named import open_data

GOOD = """\
name: two
seeds: [0, 7]
baseline: whole
metrics: [map, macs]
shared:
  data: {root: "builtin:digits"}
  model: {arch: yolov3, width: 0.0625, image_size: 64}
recipes:
  - {name: whole, chain: []}
  - name: pruned
    chain:
      - nni.l1norm: {sparsity: 0.5}
      - nni.speedup
    matrix:
      "chain[0].sparsity": [0.3, 0.7]
  - quickstart
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(old: str = "", new: str = "") -> Path:
        assert old in GOOD
        path = tmp_path / "two.yaml"
        path.write_text(GOOD.replace(old, new, 1) if old else GOOD)
        return path

    return write


def mistakes(path: Path, *assignments: str) -> list[str]:
    with pytest.raises(InputError) as error:
        read_study(path, assignments=assignments)
    return str(error.value).replace(str(path), "two.yaml").splitlines()


def by_name(study: Study) -> dict[str, object]:
    return {job.name: job.recipe for job in study.jobs}


def test_every_recipe_at_every_value_with_every_seed_is_a_job(written) -> None:
    study = read_study(written())
    assert study.variants == ["whole", "pruned-sparsity-0.3", "pruned-sparsity-0.7", "quickstart"]
    assert [(job.variant, job.seed) for job in study.jobs] == [(v, s) for s in (0, 7) for v in study.variants]
    assert study.baseline == "whole"
    pruned = by_name(study)["pruned-sparsity-0.7-seed7"]
    assert pruned.chain[0].config.sparsity == 0.7
    assert pruned.seed == 7
    assert pruned.model.image_size == 64
    assert by_name(study)["quickstart-seed0"].model.weights == "builtin:digits", (
        "shared sections are for inline recipes"
    )


def test_a_jobs_text_is_the_recipe_with_all_that_the_study_decides(written, tmp_path: Path) -> None:
    study = read_study(written())
    for job in study.jobs:
        path = tmp_path / "job.yaml"
        path.write_text(job.text)
        assert open_studies([str(path)], None).jobs[0].recipe.as_dict()["chain"] == job.recipe.as_dict()["chain"]


def test_recipes_alone_are_a_study_whose_first_is_the_baseline() -> None:
    study = open_studies(["quickstart"], seeds=3, assignments=["chain[0].parameters=0.25"])
    assert study.baseline == "quickstart"
    assert study.seeds == (0, 1, 2)
    assert study.jobs[0].recipe.chain[0].config.parameters == 0.25


def test_another_row_is_the_baseline_where_it_is_asked_for(written) -> None:
    study = read_study(written())
    assert study.beside("quickstart").baseline == "quickstart"
    with pytest.raises(InputError, match=r"^--baseline quikstart: no row of that name; did you mean 'quickstart'"):
        study.beside("quikstart")


def test_some_of_the_rows_are_run_beside_the_baseline(written) -> None:
    study = read_study(written())
    assert study.only(["quickstart"]).variants == ["whole", "quickstart"]
    assert study.only(["quickstart", "*-0.7"]).variants == ["whole", "pruned-sparsity-0.7", "quickstart"]
    assert study.beside("quickstart").only(["pruned-*"]).variants == [v for v in study.variants if v != "whole"]
    assert {job.seed for job in study.only(["whole"]).jobs} == {0, 7}
    with pytest.raises(InputError, match=r"^--only 'prune': no row of that name; expected one of: pruned-sparsity"):
        study.only(["quickstart", "prune"])


def test_every_shipped_study_is_good() -> None:
    assert "six-compressors" in shipped_studies()
    for path in shipped_studies().values():
        needed = read_yaml(path).data.get("shared", {}).get("requires", {})
        if all(installed_version(package) for package in needed):  # those of examples/ are no part of the tests
            read_study(path)


def test_what_a_study_requires_is_asked_for_by_the_row(written) -> None:
    path = written("shared:\n", 'shared:\n  requires: {detpress-not-there: ">=0.1"}\n')
    with pytest.raises(
        InputError, match=r"detpress-not-there is not installed.*pip install 'detpress-not-there>=0\.1'"
    ):
        read_study(path)


def test_a_study_wide_matrix_is_for_recipes_without_their_own(written) -> None:
    path = written("recipes:\n", 'matrix: {"model.width": [0.0625, 0.125]}\nrecipes:\n')
    path.write_text(path.read_text().replace("  - quickstart\n", "").replace("baseline: whole\n", ""))
    expected = ["whole-width-0.0625", "whole-width-0.125", "pruned-sparsity-0.3", "pruned-sparsity-0.7"]
    assert read_study(path).variants == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "sedes", "two.yaml:2: sedes: unknown key; did you mean 'seeds'?"),
        ("[0, 7]", "[0, -7]", "two.yaml:2: seeds[1]: "),
        ("[0, 7]", "[7, 7]", "two.yaml:2: seeds: a seed is given twice"),
        ("baseline: whole", "baseline: hole", "two.yaml:3: baseline: no recipe 'hole'; did you mean 'whole'?"),
        ("macs]", "mac]", "two.yaml:4: metrics[1]: no figure 'mac'; did you mean 'macs'?"),
        ("macs]", "mAP]", "two.yaml:4: metrics[1]: no figure 'mAP'; did you mean 'map'?"),
        ("  data:", "  dat:", "two.yaml:6: shared.dat: expected data, model, measure or requires"),
        ("width: 0.0625", "width: wide", "two.yaml:7: shared.model.width: expected a valid number, got 'wide'"),
        ("name: whole", "nam: whole", "two.yaml:9: recipes[0].nam: unknown key; did you mean 'name'?"),
        ("nni.speedup", "nni.sped", "two.yaml:13: recipes[1].chain[1]: unknown plugin 'nni.sped'; did you mean"),
        ("[0.3, 0.7]", "[0.3, 7]", "two.yaml:15: recipes[1].matrix.chain[0].sparsity: chain[0].nni.l1norm.sparsity: "),
        ("[0.3, 0.7]", "0.3", "two.yaml:14: recipes[1].matrix: expected lists of values by parameter"),
        ('"chain[0]', '"chain[4]', "two.yaml:15: recipes[1].matrix.chain[4].sparsity: nothing called '4' in chain"),
        ("- quickstart", "- quickstrat", "two.yaml:16: recipes[2].recipe: no recipe 'quickstrat'; did you mean"),
        ("- quickstart", "- 3", "two.yaml:16: recipes[2]: expected a recipe, or the name or file of one"),
        (
            "- quickstart",
            "- {name: whole, chain: []}",
            "two.yaml:16: recipes[2]: this row and that of two.yaml:9: recipes[0] are both called 'whole'",
        ),
        (
            '"chain[0].sparsity": [0.3, 0.7]',
            "seed: [0, 1]",
            "two.yaml:15: recipes[1].matrix.seed: rows have their names and seeds of the study (`seeds:`); expected",
        ),
        (
            "[0.3, 0.7]",
            "[0.5, 0.5]",
            "two.yaml:10: recipes[1]: this row and that of two.yaml:10: recipes[1] are both called "
            "'pruned-sparsity-0.5'",
        ),
        (
            "[0.3, 0.7]",
            f"{[*range(10_001)]}",
            "two.yaml:14: recipes[1].matrix: makes 10,001 rows; expected at most 10,000",
        ),
        ("name: two", "name: ../two", "two.yaml:1: name: "),
    ],
)
def test_a_mistake_is_told_with_its_place_in_the_studys_file(written, old: str, new: str, message: str) -> None:
    assert any(line.startswith(message) for line in mistakes(written(old, new)))


def test_heads_made_anew_for_all_are_refused_where_a_recipe_trains_nothing(written) -> None:
    path = written("{arch: yolov3, width: 0.0625, image_size: 64}", '{weights: "builtin:digits", classes: from_data}')
    lines = mistakes(path)
    assert [line.partition(": no step trains the new heads of `model.classes: from_data`; ")[0] for line in lines] == [
        "two.yaml:9: recipes[0].chain",
        "two.yaml:11: recipes[1].chain",
    ]


def test_what_tells_the_rows_apart_is_not_set_for_all_of_them(written) -> None:
    """Rows called 0.3 and 0.7 would both be 0.9."""
    path = written("  - {name: whole, chain: []}\n", "")
    path.write_text(path.read_text().replace("baseline: whole\n", "").replace("  - quickstart\n", ""))
    line = "--set: changes chain[0].sparsity, of which the matrix of 'pruned' makes rows; expected one of the two"
    assert mistakes(path, "chain[0].nni.l1norm.sparsity=0.9") == [line]
    found = read_study(path, assignments=["chain[0].ranking=global"])
    assert [job.recipe.chain[0].config.sparsity for job in found.jobs] == [0.3, 0.7, 0.3, 0.7]


def test_recipes_that_are_not_scored_alike_are_not_compared(written) -> None:
    path = written("- quickstart", "- {recipe: quickstart, matrix: {measure.iou: [0.75]}}")
    [line] = mistakes(path)
    assert line.endswith("quickstart-iou-0.75 cannot be compared with whole: measure.iou is 0.75, not 0.5")


def test_recipes_that_keep_another_number_of_detections_are_not_compared(written) -> None:
    path = written("- quickstart", "- {recipe: quickstart, matrix: {measure.max_detections: [1]}}")
    [line] = mistakes(path)
    assert line.endswith("cannot be compared with whole: measure.max_detections is 1, not 100")


def test_a_seed_is_no_setting_of_a_row(written) -> None:
    with pytest.raises(InputError, match=r"^--set seed=7: a study's rows all have its seeds; expected --seeds COUNT"):
        open_studies(["quickstart"], None, ["seed=7"])


def test_a_recipe_whose_file_begins_with_a_line_below_is_a_row_by_the_rest_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "_draft.yaml"
    path.write_text('name: p1\ndata: {root: "builtin:digits"}\nmodel: {weights: "builtin:digits"}\nchain: []\n')
    assert open_studies([str(path)]).variants == ["draft"]


def test_an_unknown_study_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="no study or recipe 'six-compresors'; did you mean 'six-compressors'"):
        open_studies(["six-compresors"])


def test_a_teacher_beside_a_recipe_or_a_study_gives_the_keys_that_run_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "kit", {"train": 2, "val": 1, "test": 1})
    save_bundle(new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), seed=0), tmp_path / "teacher")
    sections = (
        "data: {root: kit}\nmodel: {arch: yolov3-tiny, width: 0.0625, image_size: 64}\n"
        "chain:\n  - nni.dynamic_layerwise: {teacher: teacher, training: {epochs: 1}}\n"
    )
    alone, study, copied = tmp_path / "taught.yaml", tmp_path / "study.yaml", tmp_path / "out" / "copied.yaml"
    alone.write_text("name: taught\n" + sections)
    study.write_text("name: study\nrecipes:\n- name: taught\n  " + sections.replace("\n", "\n  "))
    copied.parent.mkdir()

    def keys(recipe: Recipe) -> list[str]:
        devkit = open_data(recipe.data.root, None)
        return chain_keys(recipe, devkit, initial_model(recipe, devkit))

    expected = keys(read_recipe(alone))
    monkeypatch.chdir(copied.parent)  # nothing is beside the working directory
    for name in (alone, study):
        [job] = open_studies([str(name)]).jobs
        copied.write_text(job.text)
        assert keys(job.recipe) == keys(read_recipe(copied)) == expected
    [job] = open_studies([str(alone)], None, ["chain[0].teacher=../teacher"]).jobs
    copied.write_text(job.text)
    assert keys(job.recipe) == keys(read_recipe(copied))


def test_a_shipped_study_takes_data_and_weights_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `detpress run cells-128 --out cells-128` has left them."""
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "cells-128/1-train.scratch/bundle"
    save_bundle(new_model(build_architecture("yolov3", ["Platelets", "RBC", "WBC"], 64, width=0.0625), seed=0), bundle)
    jobs = by_name(open_studies(["distillers-cells"]))
    assert {job.model.weights for job in jobs.values()} == {str(bundle)}
    assert {job.data.root for job in jobs.values()} == {str(tmp_path / "BCCD")}
    teachers = {step.config.teacher for job in jobs.values() for step in job.chain if hasattr(step.config, "teacher")}
    assert teachers == {str(bundle)}
