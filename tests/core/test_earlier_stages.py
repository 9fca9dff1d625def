"""What a step left decides later ones of its chain: `teacher: stage:N` teaches, a new image size is calibrated on."""

from pathlib import Path

import pytest
import torch

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.detector.network import Network
from detpress.detector.rewriting import at_side
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.errors import InputError
from detpress.options import with_bundles
from detpress.recipe.file import Recipe, read_recipe
from detpress.run.chain import Chain
from detpress.run.initial_model import open_recipe_data
from detpress.run.plan import plan_chain
from detpress.run.store import Store
from detpress.voc.digits import CLASSES, write_digits

RECIPE = """
name: earlier
data: {root: data, test: train}
model: {weights: given}
chain:
  - train.batchnorm: {images: 8}
  - prune.random: {masks: filters, sparsity: 0.4}
  - nni.speedup
  - distill.pkd: {teacher: "stage:1", training: {epochs: 1, batch_size: 4}}
  - train.finetune: {epochs: 1, objectives: [{distill.hinton: {teacher: "stage:1"}}]}
"""


class Silent:
    def begin(self, index: int, total: int, name: str) -> None: ...

    def waiting(self) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    write_digits(folder / "data", {"train": 8})
    save_bundle(new_model(build_architecture("yolov3-tiny", CLASSES, 64, 0.125), seed=0), folder / "given")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def read(folder: Path, *settings: str) -> Recipe:
    return read_recipe(folder / "recipe.yaml", settings)


def test_it_teaches_as_its_bundle_in_a_folder_does(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def left_by_the_distiller(*settings: str) -> tuple[str, Path]:
        recipe = read(folder, *settings)
        chain = Chain(recipe, open_recipe_data(recipe), store, Silent())
        for index in range(5):
            chain.made(index)
        return chain.keys[4], store.stage(chain.keys[1]) / "bundle"

    key, teacher = left_by_the_distiller()
    other, _ = left_by_the_distiller(f"chain[3].teacher={teacher}")
    assert key != other
    one, two = (load_bundle(store.stage(found) / "bundle") for found in (key, other))
    assert one.history[-1]["config"]["teacher"] == "stage:1"
    mine, theirs = one.network.state_dict(), two.network.state_dict()
    assert all((tensor == theirs[name]).all() for name, tensor in mine.items())


def test_images_to_calibrate_on_are_of_the_size_that_an_earlier_step_gave(folder: Path, tmp_path: Path) -> None:
    """A network of 64 pixels brought to 96 gets the statistics that it gets where it is of 96 from the beginning."""
    given = load_bundle(folder / "given")
    save_bundle(given.with_network(at_side(given.own_network, 96)), tmp_path / "larger")
    store = Store(tmp_path / "store")

    def last(*settings: str) -> Network:
        recipe = read(folder, *settings)
        chain = Chain(recipe, open_recipe_data(recipe), store, Silent())
        for index in range(len(chain.keys)):
            chain.made(index)
        return load_bundle(store.stage(chain.keys[-1]) / "bundle").own_network

    batchnorm = "train.batchnorm: {images: 8}"
    brought = last(f"chain=[rewrite.image_size: {{to: 96}}, {batchnorm}]").state_dict()
    expected = last(f"model.weights={tmp_path / 'larger'}", f"chain=[{batchnorm}]").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in brought.items())


def test_an_option_that_the_recipe_leaves_out_stays_a_default_beside_it(folder: Path) -> None:
    batchnorm, *_, distiller, _ = (step.config for step in read(folder, "chain[0]=train.batchnorm").chain)
    found = {"stage:1": "/a/bundle"}
    assert with_bundles(batchnorm, found).is_default("images")
    taught = with_bundles(distiller, found)
    assert taught.teacher == "/a/bundle"
    assert taught.is_default("weight")


def test_which_stage_it_is_decides_the_key_of_the_step_that_names_it(folder: Path, tmp_path: Path) -> None:
    def keys(*settings: str) -> list[str]:
        recipe = read(folder, *settings)
        return Chain(recipe, open_recipe_data(recipe), Store(tmp_path / "store"), Silent()).keys

    one, other = keys(), keys("chain[3].teacher=stage:0")
    assert one[:4] == other[:4]
    assert one[4] != other[4]


def test_the_plan_holds_it_against_the_student(folder: Path) -> None:
    rows = plan_chain(read(folder))
    assert [row.plugin for row in rows[4:]] == ["distill.pkd", "train.finetune"]
    with pytest.raises(InputError, match=r"distill\.pkd\.links\.layers\.0: 'layers\.99' is no layer"):
        plan_chain(read(folder, "chain[3].links={layers.0: layers.99}"))


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "chain[3].teacher=stage:4",
            "chain[3].distill.pkd.teacher: 'stage:4': expected stage:0, the model, to stage:3",
        ),
        ("chain[3].teacher=stage:one", "'stage:one': expected stage:0, the model, to stage:3, which this step takes"),
        ("chain=[{distill.pkd: {teacher: stage:1, training: {epochs: 1}}}]", "'stage:1': expected stage:0, the model"),
    ],
)
def test_a_stage_that_is_not_before_the_step_is_refused(folder: Path, setting: str, line: str) -> None:
    with pytest.raises(InputError) as error:
        read(folder, setting)
    assert line in str(error.value)


def test_trainings_whose_result_is_remembered_leave_their_tables_like_all_others(folder: Path, tmp_path: Path) -> None:
    """Each round of training with gates is remembered."""
    (folder / "gated.yaml").write_text(
        "name: gated\ndata: {root: data, test: train}\nmodel: {weights: given}\nchain:\n"
        "  - continuous.sparsify: {masks: filters, epochs: 2, rounds: 2, rewind: never, training: {batch_size: 4}}\n"
    )
    recipe = read_recipe(folder / "gated.yaml")
    store = Store(tmp_path / "store")
    chain = Chain(recipe, open_recipe_data(recipe), store, Silent())
    for index in range(2):
        chain.made(index)
    tables = [path.read_text().splitlines() for path in (store.stage(chain.keys[1]) / "training").iterdir()]
    assert [len(table) for table in tables] == [3, 3], "a line an epoch, and the names"
