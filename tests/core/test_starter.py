"""`detpress plugins new`: a package that is whole, from its source to a recipe that uses it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from detpress.errors import InputError
from detpress.starter.package import IN_TEMPLATE, TEMPLATE, Names, names_for, write_package
from detpress.voc.digits import write_digits

ROOT = Path(__file__).parents[2]
NAMES = Names("detpress-acme-shrink", "detpress_acme_shrink", "acme.shrink")
LIGHT = ["--set", "data.root=digits", "--set", "measure={runtimes: [], memory: false}", "--out", "out", "--json"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "package"
    write_package(NAMES, folder)
    return folder


def run(folder: Path, *command: str, path: Path | None = None) -> str:
    """What the Python command prints. path: is looked for modules first."""
    paths = [str(each) for each in (path, os.environ.get("PYTHONPATH")) if each]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "DETPRESS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(package: Path) -> Path:
    """A folder into which the package's wheel is installed, without a network."""
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(package, "-m", "pip", "wheel", *offline, "--no-build-isolation", "--wheel-dir", "wheels", ".")
    [wheel] = (package / "wheels").glob("*.whl")
    run(package, "-m", "pip", "install", *offline, "--target", "site", str(wheel))
    return package / "site"


def test_the_names_are_all_that_differs_from_the_template(package: Path) -> None:
    written = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*") if path.is_file()}
    assert "src/detpress_acme_shrink/rounding.py" in written
    for file, text in written.items():
        source = TEMPLATE / file.replace(NAMES.modules, IN_TEMPLATE.modules)
        for new, old in zip(vars(NAMES).values(), vars(IN_TEMPLATE).values(), strict=True):
            text = text.replace(new, old)
        assert text == source.read_text()
        assert "mine" not in file
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["entry-points"] == {
        "detpress.plugins": {"acme.shrink": "detpress_acme_shrink.rounding:RoundWeights"}
    }


def test_ruff_has_nothing_to_say(package: Path) -> None:
    run(package, "-m", "ruff", "check", "--no-cache", "src", "tests")
    run(package, "-m", "ruff", "format", "--no-cache", "--check", "src", "tests")


def test_the_wheel_brings_the_plugin_and_its_recipe_runs(package: Path, installed: Path) -> None:
    write_digits(package / "digits", {"train": 1, "val": 1, "test": 1})
    assert (installed / "detpress_acme_shrink/py.typed").is_file()
    card = run(package, "-m", "detpress", "plugins", "acme.shrink", path=installed)
    assert card.startswith("acme.shrink  (dense | masked -> the same)\n\nRounds every convolution's weights")
    found = json.loads(run(package, "-m", "detpress", "run", "recipe.yaml", *LIGHT, path=installed))
    assert [stage["plugin"] for stage in found["stages"]] == ["model", "acme.shrink"]
    parameters = [stage["metrics"]["nonzero_parameters"] for stage in found["stages"]]
    assert parameters[1] < parameters[0], "small weights became 0"
    provenance = json.loads((package / "out/1-acme.shrink/bundle/model.json").read_text())["history"][-1]
    assert provenance["distribution"] == "detpress-acme-shrink 0.1.0"


def test_its_own_tests_pass(package: Path, installed: Path) -> None:
    """But those of the contract that apply the plugin once more, or to another network: these take a minute."""
    chosen = "nearest or documented or options or import or applies or changes or plan or output or bundle"
    run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, path=installed)


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for there in (tmp_path, tmp_path / "mine"):
        with pytest.raises(InputError, match=r"is there already; expected a folder to make"):
            write_package(NAMES, there)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("name", ["Round", "mine round", "mine..round", "7mine", "mine/round", "m" * 41, ""])
def test_what_could_be_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"can be no plugin's name; expected at most 40"):
        names_for(name)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(InputError, match=r"'nni\.level' is the name of a plugin that is installed"):
        names_for("nni.level")
    assert names_for("acme.shrink") == NAMES


def test_the_manual_shows_the_files_as_they_are() -> None:
    manual = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)```$", manual, re.MULTILINE | re.DOTALL))
    assert shown == {file: (TEMPLATE / file).read_text(encoding="utf-8") for file in shown}
    files = [path for path in TEMPLATE.rglob("*.*") if path.is_file() and path.stat().st_size > 100]
    assert shown.keys() == {path.relative_to(TEMPLATE).as_posix() for path in files} - {"README.md"}
