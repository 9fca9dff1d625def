"""`model: {weights: BUNDLE, classes: from_data}`: what the recipe gives, what is said of it, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detpress.builtin import find_bundle
from detpress.detector.model import Model, new_model
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError
from detpress.recipe.file import Recipe, read_recipe
from detpress.run.data_check import annotation_findings
from detpress.run.initial_model import initial_model, open_recipe_data
from detpress.run.keys import chain_keys
from detpress.run.plan import PlannedStage, plan_chain, touched_layers
from detpress.voc.devkit import Devkit
from detpress.voc.digits import write_digits

RECIPE = """
name: transfer
data: {{root: {root}, train: train, test: train}}
model: {{weights: "builtin:digits", classes: from_data}}
chain: [train.finetune: {{epochs: 1}}]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images of digits under other names than those that the shipped detector knows."""
    folder = tmp_path_factory.mktemp("transfer")
    write_digits(folder / "devkit", {"train": 8})
    for path in (folder / "devkit/Annotations").iterdir():
        path.write_text(path.read_text().replace("<name>", "<name>figure "))
    (folder / "recipe.yaml").write_text(RECIPE.format(root=folder / "devkit"))
    return folder


@pytest.fixture(scope="module")
def given() -> Model:
    return load_bundle(find_bundle("builtin:digits"))


def read(root: Path, *settings: str) -> Recipe:
    return read_recipe(root / "recipe.yaml", settings)


def opened(root: Path, *settings: str) -> tuple[Recipe, Devkit, Model]:
    recipe = read(root, *settings)
    devkit = open_recipe_data(recipe)
    return recipe, devkit, initial_model(recipe, devkit)


def planned(root: Path, *settings: str) -> list[PlannedStage]:
    recipe = read(root, *settings)
    return plan_chain(recipe, open_recipe_data(recipe))


def test_the_model_has_the_data_sets_classes_and_all_other_weights_of_the_bundle(root: Path, given: Model) -> None:
    _, devkit, model = opened(root)
    assert model.architecture.classes == devkit.classes
    assert "figure seven" in devkit.classes
    heads = tuple(f"layers.{head}." for head in model.architecture.heads)
    own = given.network.state_dict()
    for name, tensor in model.network.state_dict().items():
        assert name.startswith(heads) or torch.equal(tensor, own[name])


def test_validate_says_layer_by_layer_what_is_new_and_what_is_kept(root: Path, given: Model) -> None:
    first = planned(root)[0]
    names = [given.architecture.names[head] for head in given.architecture.heads]
    assert list(first.layers) == names
    assert len(first.untouched) == 75 - 3
    assert touched_layers(first) == f"keeps all convolutions but {', '.join(names)}, which are made anew"
    assert first.note.startswith("made anew for figure eight, figure five, figure four, ")
    assert first.note.endswith(
        f": {', '.join(names)}, but for the filters of boxes and objectness; all other weights are kept"
    )


def test_anchors_by_kmeans_come_from_the_training_boxes_and_make_heads_new_as_a_whole(root: Path, given: Model) -> None:
    recipe, _, model = opened(root, "model.anchors=kmeans")
    assert model.architecture.yolo_layers != given.architecture.yolo_layers
    sizes = [w * h for yolo in reversed(model.architecture.yolo_layers) for w, h in yolo.anchors]
    assert sizes == sorted(sizes)
    new = new_model(model.architecture, recipe.seed).network.state_dict()
    for head in model.architecture.heads:
        name = f"layers.{head}.convolution.weight"
        assert torch.equal(model.network.state_dict()[name], new[name])
    assert "but for" not in model.notes[0]


def test_the_seed_of_the_new_heads_is_in_the_first_key_and_in_no_other_bundles(root: Path) -> None:
    def first(*settings: str) -> str:
        recipe, devkit, model = opened(root, *settings)
        return chain_keys(recipe, devkit, model)[0]

    assert first() == first()
    assert len({first(), first("seed=1"), first("model.anchors=kmeans")}) == 3
    plain = ("model={weights: 'builtin:digits'}", "data.root=builtin:digits")
    recipe = read(root, *plain)
    given = initial_model(recipe, None)
    with_other_seed = read(root, *plain, "seed=1")
    devkit = Devkit(root, open_recipe_data(read(root)).layout, None)
    assert chain_keys(recipe, devkit, given)[0] == chain_keys(with_other_seed, devkit, given)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("chain=[]",), "chain: no step trains the new heads of `model.classes: from_data`; expected one that does"),
        (
            ("chain=[{nni.l1norm: {sparsity: 0.5}}, nni.speedup, train.batchnorm]",),
            "chain: no step trains the new heads",
        ),
        (
            ("model={arch: yolov3, image_size: 64, classes: from_data}",),
            "from_data: expected only with `weights`, whose heads are made anew",
        ),
        (("model.classes=mine",), "model.classes: expected 'from_data', got 'mine'"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line_before_anything_is_read(
    root: Path, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        read(root, *settings)
    assert said in str(refused.value)


def test_heads_that_every_training_freezes_are_refused(root: Path, given: Model) -> None:
    heads = [given.architecture.names[head] for head in given.architecture.heads]
    chain = f"chain=[{{train.finetune: {{epochs: 1, frozen: {heads}}}}}]"
    with pytest.raises(InputError, match=r"chain: all trainings freeze layers\.\d+, .*, the new heads of"):
        planned(root, chain)
    assert planned(root, chain[:-1] + ", train.finetune: {epochs: 1}]")
    with pytest.raises(InputError, match=r"frozen: expected none: all weights are drawn anew"):
        read(root, "chain=[{train.scratch: {epochs: 1, frozen: ['layers.0']}}]")


def test_validate_says_which_layers_with_weights_the_patterns_froze(root: Path) -> None:
    rows = planned(root, "chain=[{train.finetune: {epochs: 1, frozen: ['layers.?', layers.12]}}, train.batchnorm]")
    assert [row.note for row in rows[1:]] == ["frozen layers.0-3, 5-7, 9, 12", ""]


def test_what_takes_the_weights_knowledge_or_asks_for_another_size_is_said(root: Path) -> None:
    said = "draws all weights anew: what those of the bundle know is lost"
    assert planned(root, "chain=[{train.scratch: {epochs: 1}}]")[1].note == said
    assert planned(root, "chain=[{train.scratch: {epochs: 1}}]", "model={arch: yolov3, image_size: 64}")[1].note == ""
    with pytest.raises(InputError, match=r"model\.image_size: 64, but the weights .* have \d+: leave it out"):
        opened(root, "model.image_size=64")


def test_a_split_that_cannot_be_is_told_with_its_line(root: Path) -> None:
    with pytest.raises(
        InputError, match=r"^--set data\.split=.*: data\.split\.of: expected one of the image sets: train, "
    ):
        opened(root, "data.split={test: 0.5, of: all}")


def test_a_pruner_that_trains_while_it_chooses_trains_the_heads(root: Path) -> None:
    assert read(root, "chain=[{nni.taylor: {sparsity: 0.5}}]").chain
    assert read(root, "chain=[{nni.l1norm: {sparsity: 0.5, schedule: {kind: agp, steps: 2}}}]").chain


def test_published_anchors_and_weights_that_are_not_dense_are_refused(root: Path, tmp_path: Path, given: Model) -> None:
    with pytest.raises(InputError, match=r"model\.anchors: the weights builtin:digits bring their own"):
        opened(root, "model.anchors=published")
    mask = torch.ones_like(given.network.state_dict()["layers.0.convolution.weight"], dtype=torch.bool)
    save_bundle(replace(given, masks={"layers.0.convolution.weight": mask}), tmp_path / "masked")
    with pytest.raises(InputError, match=r"model\.classes: the weights .*masked are masked; expected dense ones"):
        opened(root, f"model.weights={tmp_path / 'masked'}")


def test_without_it_another_data_sets_classes_are_refused_and_the_way_is_named(root: Path) -> None:
    recipe = read(root, "model={weights: 'builtin:digits'}")
    said = [finding.text for finding in annotation_findings(recipe, open_recipe_data(recipe)) if finding.is_error]
    assert "is not in the recipe's or detector's list; " in said[0]
    assert said[1].endswith("`model.classes: from_data` makes its heads anew for the data set's classes")
