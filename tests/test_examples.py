"""The packages of examples/ are whole, as far as can be told without their engines."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from detpress import api

PACKAGES = sorted(path.parent for path in (Path(__file__).parents[1] / "examples").glob("*/pyproject.toml"))
FROM_DETPRESS = {"detpress.api", "detpress.testing"}
BROUGHT = {"numpy", "onnx", "openvino", "pydantic", "pytest", "torch"}  # by detpress, or by `dev`


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_entry_points_requirements_and_imports_agree(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    modules = package.name.replace("-", "_")
    assert project["name"] == package.name
    for target in project["entry-points"]["detpress.plugins"].values():
        module, cls = target.split(":")
        found = {node.name: node for node in parsed(package, module).body if isinstance(node, ast.ClassDef)}[cls]
        assert ast.get_docstring(found)
        for line in found.body:  # a class that is made for one version of the API says which
            if isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "api":
                assert ast.literal_eval(line.value) == api.API_VERSION
    engines = {Requirement(text).name.replace("-", "_") for text in project["dependencies"]} - {"detpress"}
    for source in (package / "src").rglob("*.py"), (package / "tests").rglob("*.py"):
        for file in source:
            for name in imported(file):
                if name.startswith("detpress") and not name.startswith(modules):
                    assert name in FROM_DETPRESS, f"{file} imports {name}"
                top = name.split(".")[0]
                assert top in {"detpress", modules, *sys.stdlib_module_names, *BROUGHT, *engines}, f"{file}: {name}"
    for recipe in (package / "recipes").glob("*.yaml"):
        document = yaml.safe_load(recipe.read_text())
        required = document.get("requires") or document["shared"]["requires"]
        assert project["version"] in Requirement(f"{package.name}{required[package.name]}").specifier


def parsed(package: Path, module: str) -> ast.Module:
    return ast.parse((package / "src" / Path(*module.split(".")).with_suffix(".py")).read_text())


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
