"""The packages of examples/ are whole, as far as can be told without their engines."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

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
    required = [*project["dependencies"]]
    for target in project["entry-points"]["detpress.plugins"].values():
        module, cls = target.split(":")
        found = {node.name: node for node in parsed(package, module).body if isinstance(node, ast.ClassDef)}[cls]
        said = {line.targets[0].id: line.value for line in found.body if assigns_a_name(line)}
        assert ast.get_docstring(found) or "__doc__" in said
        if "api" in said:  # a class that is made for one version of the API says which
            assert ast.literal_eval(said["api"]) == api.API_VERSION
        if "requirements" in said:  # of an environment of the engine's own
            required += ast.literal_eval(said["requirements"])
    engines = {Requirement(text).name.replace("-", "_") for text in required} - {"detpress"}
    for source in (package / "src").rglob("*.py"), (package / "tests").rglob("*.py"):
        for file in source:
            for name in imported(file):
                if name.startswith("detpress") and not name.startswith(modules):
                    assert name in FROM_DETPRESS, f"{file} imports {name}"
                top = name.split(".")[0]
                assert top in {"detpress", modules, *sys.stdlib_module_names, *BROUGHT, *engines}, f"{file}: {name}"
    for recipe in (package / "recipes").glob("*.yaml"):
        document = yaml.safe_load(recipe.read_text())
        asked = document.get("requires") or document["shared"]["requires"]
        assert project["version"] in Requirement(f"{package.name}{asked[package.name]}").specifier


def assigns_a_name(line: ast.stmt) -> TypeGuard[Any]:
    return isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)


def parsed(package: Path, module: str) -> ast.Module:
    return ast.parse((package / "src" / Path(*module.split(".")).with_suffix(".py")).read_text())


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
