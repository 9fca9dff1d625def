"""An objective of another package, in one file and one entry point: the manual's critic with its own optimizer."""

import re
from pathlib import Path

import pytest
from command_line import Command
from distribution import Install
from killing import digests, run_killed

from detpress.detector.architecture import build_architecture
from detpress.detector.model import new_model
from detpress.encodings.bundle import save_bundle
from detpress.recipe.file import read_recipe
from detpress.run.keys import stage_key
from detpress.voc.digits import CLASSES

MANUAL = Path(__file__).parents[2] / "docs/plugins.md"


def example() -> str:
    """The manual's file."""
    found = re.search(r"```python\n(# my_package/critic\.py\n.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def stranger(install: Install) -> Path:
    """The file of a distribution with this objective, installed."""
    entries = "[detpress.objectives]\nmine.critic = stranger_critic:Critic\n"
    return install("stranger", "1.2", {"stranger_critic.py": example()}, entries) / "stranger_critic.py"


@pytest.fixture
def recipe(workplace: Path, bundle: Path) -> Path:
    (workplace / "teacher").symlink_to(bundle)
    path = workplace / "small.yaml"
    path.write_text(
        "name: small\n"
        f"data: {{root: digits, classes: [{', '.join(CLASSES)}]}}\n"
        "model: {arch: yolov3-tiny, width: 0.0625, image_size: 64}\n"
        "chain:\n"
        "  - train.scratch:\n"
        "      epochs: 3\n"
        "      batch_size: 4\n"
        "      objectives: [{mine.critic: {teacher: teacher}}]\n"
        "measure: {runtimes: [], memory: false}\n"
    )
    return path


@pytest.mark.usefixtures("stranger", "recipe")
def test_a_training_with_a_critic_that_was_killed_goes_on_to_the_same_bits(
    detpress: Command, workplace: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_killed("train.scratch", "epoch 3")
    assert list((cache / "store/scratch").glob("*/fit-0/last.ckpt"))
    said = detpress("run", "small.yaml", "--out", "killed")
    assert said.code == 0, said.err
    stage = workplace / "killed/1-train.scratch"
    assert "going on from" in (stage / "stage.log").read_text()
    header, *rows = (stage / "training/0.csv").read_text().splitlines()
    assert header == "epoch,box,objectness,classes,adversarial,critic"
    assert len(rows) == 3
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "another"))
    assert detpress("run", "small.yaml", "--out", "undisturbed").code == 0
    assert digests(workplace / "killed") == digests(workplace / "undisturbed")
    assert (workplace / "undisturbed/1-train.scratch/training/0.csv").read_text().splitlines() == [header, *rows]
    assert detpress("report", "killed").code == 0
    page = (workplace / "killed/report.html").read_text()
    for term in ("box", "objectness", "classes", "adversarial", "critic"):
        assert f'data-tip="{term}"' in page
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "without"))
    assert detpress("run", "small.yaml", "--set", "chain[0].objectives=[]", "--out", "without").code == 0
    assert digests(workplace / "without") != digests(workplace / "killed")


@pytest.mark.usefixtures("stranger", "recipe")
@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ("[mine.critik]", "small.yaml:8: chain[0].train.scratch.objectives[0]: unknown objective 'mine.critik'; did"),
        ("[mine.critic]", "small.yaml:8: chain[0].train.scratch.objectives[0].mine.critic.teacher: missing"),
        ("[{mine.critic: {teacher: teacher, weight: -1}}]", "mine.critic.weight: expected greater than 0, got -1"),
        ("[{mine.critic: {teacher: teacher, weigth: 1}}]", "mine.critic.weigth: unknown key; did you mean 'weight'?"),
        ("[{mine.critic: {teacher: nowhere}}]", "objectives[0].mine.critic.teacher: nowhere: not a bundle"),
        ("mine.critic", "objectives: expected a valid list"),
        ("[[mine.critic]]", "expected one objective with its options, such as `detection: {}`"),
    ],
)
def test_what_is_wrong_with_an_objective_is_said_with_its_place(
    objectives: str, message: str, detpress: Command, recipe: Path
) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("[{mine.critic: {teacher: teacher}}]", objectives))
    said = detpress("run", "small.yaml")
    assert said.code == 2
    assert message in said.err.splitlines()[-1].replace(f"{recipe.parent}/", "")


@pytest.mark.usefixtures("stranger", "recipe")
def test_an_objective_is_checked_before_anything_is_computed(detpress: Command, workplace: Path, cache: Path) -> None:
    save_bundle(new_model(build_architecture("yolov3-tiny", ["cat", "dog"], 64, width=0.0625), 0), workplace / "cats")
    said = detpress("run", "small.yaml", "--set", "chain[0].objectives=[{mine.critic: {teacher: cats}}]")
    assert said.code == 2
    assert "objectives: mine.critic: teacher: knows cat, dog; expected the student's classes" in said.err
    assert not (cache / "store/stages").exists()


@pytest.mark.usefixtures("recipe")
def test_an_objective_that_raises_is_named_with_its_package_and_place(detpress: Command, stranger: Path) -> None:
    """And not only the built-in step that trains with it."""
    text = f"{example()}\n\ndef broken(self, step):\n    raise ValueError('no such luck')\n\n\nCritic.terms = broken\n"
    stranger.write_text(text)
    line = text.splitlines().index("    raise ValueError('no such luck')") + 1
    said = detpress("run", "small.yaml")
    assert (said.code, "Traceback" in said.err) == (1, False)
    expected = "train.scratch failed: ValueError: no such luck, in objective 'mine.critic' (stranger 1.2), at "
    assert f"{expected}stranger_critic.py:{line}; see " in said.err


@pytest.mark.usefixtures("recipe")
def test_the_key_has_what_decides_what_an_objective_does(stranger: Path, workplace: Path) -> None:
    def key(*assignments: str) -> str:
        recipe = read_recipe(Path("small.yaml"), assignments)
        return stage_key(["parent"], recipe.chain[0], recipe, "data")

    before = key()
    assert key() == before
    assert key("chain[0].objectives[0].mine.critic.weight=0.1") == before, "the default"
    assert key("chain[0].objectives[0].weight=0.2") != before
    assert key("chain[0].objectives=[]") != before
    stranger.write_text(example() + "# changed\n")
    assert key() != before
    stranger.write_text(example())
    save_bundle(new_model(build_architecture("yolov3-tiny", CLASSES, 64, width=0.0625), 1), workplace / "other")
    (workplace / "teacher").unlink()
    (workplace / "teacher").symlink_to("other")
    assert key() != before
