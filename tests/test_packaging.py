"""What `pip install` of a wheel or of a source distribution brings."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = ("plugins", "adapters", "recipes")  # folders of the repository that are packages below `detpress`
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "repository"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "runner.py"):
        shutil.copyfile(ROOT / name, copy / name)
    for name in ("detpress", *OUTSIDE):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for what in ("build_sdist", "build_wheel"):
        command = [sys.executable, "-c", BUILD, what, str(folder)]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


def sources() -> set[str]:
    """Every file of the packages, under the name that it has in the installed package."""
    files = (path.relative_to(ROOT) for name in ("detpress", *OUTSIDE) for path in (ROOT / name).rglob("*"))
    names = {path.as_posix() for path in files if "__pycache__" not in path.parts and (ROOT / path).is_file()}
    return {f"detpress/{name}" if name.startswith(OUTSIDE) else name for name in names}


def test_the_wheel_has_every_module_recipe_and_bundle(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources()
    assert {
        "detpress/py.typed",
        "detpress/recipes/first-steps/quickstart.yaml",
        "detpress/plugins/nni_prune.py",
    } <= names


def test_the_wheel_has_the_entry_points(built: Path) -> None:
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        entries = ConfigParser()
        entries.optionxform = str  # type: ignore[assignment,method-assign]
        entries.read_string(wheel.read(name).decode())
    assert dict(entries["console_scripts"]) == {"detpress": "detpress.cli:main"}
    lines = declared["options.entry_points"]["detpress.plugins"].strip().splitlines()
    assert [f"{name} = {value}" for name, value in sorted(entries["detpress.plugins"].items())] == sorted(lines)


def test_runner_py_in_a_checkout_is_the_installed_command(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(built / "site")
    monkeypatch.setenv("PYTHONPATH", str(built / "site"))
    command = [sys.executable, "runner.py", "plugins", "--json"]
    done = subprocess.run(command, cwd=built / "repository", capture_output=True, text=True, check=True)
    statuses = {row["name"]: row["status"] for row in json.loads(done.stdout)}
    assert statuses["nni.speedup"] == "working"
    assert "broken" not in statuses.values()


def test_the_source_distribution_builds_on_its_own(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    inside = {name.removeprefix("detpress/") if name.split("/")[1] in OUTSIDE else name for name in sources()}
    assert inside | {"setup.cfg", "pyproject.toml", "LICENSE", "README.md"} <= names
