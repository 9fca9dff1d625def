"""Packages whose authors were careless: listed, named and refused, while all others go on."""

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from distribution import Install, write_distribution

from detpress.detector.layer_kinds import LAYERS
from detpress.doors import Door, findings
from detpress.encodings.known import ENCODINGS
from detpress.errors import InputError
from detpress.recipe.file import read_recipe
from detpress.training.named_objective import OBJECTIVES

PLUGIN = """
from detpress.api import Form, Options, Plugin

class Good(Plugin):
    "Gives back what it is given."
    class Config(Options):
        pass
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE
    def apply(self, model, config, bench):
        return model
"""
LATER = "\n\n\nclass Careless(Good):\n"  # its first line is 14

CARELESS = {  # distribution -> what its module says, what is said of it, and the line that is named
    "raises": ("\nraise OSError('no licence')\n", "OSError: no licence", 2),
    "exits": ("import sys\nsys.exit('no licence')\n", "it asked the program to exit (no licence)", 2),
    "leaves": ("import os\n\nos._exit(0)\n", "importing it ends the process with exit code 0", 3),
    "crashes": ("import ctypes\nctypes.string_at(0)\n", "importing it ends the process with SIGSEGV", 2),
    "sleeps": ("import time\n\n\ntime.sleep(600)\n", "importing it takes longer than 4 s", 4),
    "misspelt": ("class Careless(:\n", "SyntaxError: invalid syntax", 1),
    "needs": ("import no_such_engine\n", "ModuleNotFoundError: No module named 'no_such_engine'", 1),
    "made": (f"{PLUGIN}{LATER}    def __init__(self):\n        raise RuntimeError('no\\nlicence')\n", "no licence", 17),
    "wordless": (f"{PLUGIN}{LATER}    def __init__(self):\n        raise RuntimeError\n", "RuntimeError", 17),
    "abstract": (
        "from detpress.api import Plugin\nclass Careless(Plugin):\n    'Nothing yet.'\n",
        "TypeError: Can't instantiate abstract class Careless",
        2,
    ),
    "formless": (
        f"{PLUGIN}{LATER}    accepts = {{'dense'}}\n",
        "its `accepts` is no frozenset of detpress.api.Form",
        15,
    ),
    "texts": (f"{PLUGIN}{LATER}    accepts = frozenset({{'dense'}})\n", "its `accepts` is no frozenset of", 15),
    "returns": (f"{PLUGIN}{LATER}    returns = 'dense'\n", "its `returns` is neither a detpress.api.Form nor None", 15),
    "options": (f"{PLUGIN}{LATER}    Config = dict\n", "its `Config` is no subclass of detpress.api.Options", 15),
    "engines": (f"{PLUGIN}{LATER}    engine = 3\n", "its `engine` is neither text nor None", 15),
    "other": ("class Careless:\n    pass\n", "other:Careless is no detpress Plugin", 1),
    "later": (
        f"{PLUGIN}{LATER}    api = 2\n",
        "it is made for version 2 of detpress.api, which here has version 1",
        15,
    ),
    "versions": (f"{PLUGIN}{LATER}    api = '1'\n", "its `api` is no whole number", 15),
    "climbs": (f"{PLUGIN}{LATER}    'One.'\n", "nothing can be called so: expected up to 100 letters, digits,", 15),
}
FINE = {
    "silent": f"{PLUGIN}{LATER}    __doc__ = None\n",
    "slow": f"import time\ntime.sleep(1.2)\nprint('on the standard output')\n{PLUGIN}Careless = Good\n",
    "clash": f"{PLUGIN}Careless = Good\n",
    "one": f"{PLUGIN}Careless = Good\n",
    "two": f"{PLUGIN}{LATER}    'Another one.'\n",
}
NAMES = {"climbs": "my.climbs/../..", "clash": "nni.l1norm", "one": "both.round", "two": "both.round"}
OTHER_DOORS = {
    "a_tuner": ("tuners", "tuner", "raise OSError('no licence')\n"),
    "an_assessor": ("assessors", "assessor", "import os\nos._exit(3)\n"),
    "an_architecture": ("architectures", "architecture", "import sys\nsys.exit()\n"),
}


@dataclass(frozen=True)
class Machine:
    """One where all these packages are installed."""

    environment: dict[str, str]
    folder: Path

    def detpress(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "detpress", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
            cwd=self.folder,
        )

    def rows(self) -> dict[str, dict[str, str]]:
        done = self.detpress("plugins", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("careless")
    for package, source in {**{name: said[0] for name, said in CARELESS.items()}, **FINE}.items():
        entries = f"[detpress.plugins]\n{NAMES.get(package, f'my.{package}')} = {package}:Careless\n"
        write_distribution(folder / "site", package, "1.2", {f"{package}.py": source}, entries)
    for package, (group, _, source) in OTHER_DOORS.items():
        entries = f"[detpress.{group}]\nmy.{package} = {package}:Careless\n"
        write_distribution(folder / "site", package, "1.2", {f"{package}.py": source}, entries)
    path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH", ""))))
    own = {"PYTHONPATH": path, "DETPRESS_CACHE": str(folder / "cache"), "DETPRESS_IMPORT_SECONDS": "4"}
    return Machine(os.environ | own, folder)


@pytest.fixture(scope="module")
def rows(machine: Machine) -> dict[str, dict[str, str]]:
    """What `detpress plugins --json` lists."""
    return machine.rows()


@pytest.mark.parametrize("package", CARELESS)
def test_a_broken_plugin_is_a_row_that_says_what_where_and_how_to_be_rid_of_it(
    package: str, rows: dict[str, dict[str, str]]
) -> None:
    _, what, line = CARELESS[package]
    name = NAMES.get(package, f"my.{package}")
    row = rows[name]
    assert (row["status"], row["distribution"]) == ("broken", f"{package} 1.2")
    assert row["reason"].startswith(f"plugin '{name}' ({package} 1.2) cannot be used: ")
    assert what in row["reason"]
    assert row["reason"].endswith(f", at {package}.py:{line}; to remove it: pip uninstall {package}")
    assert "\n" not in row["reason"]


def test_all_others_are_listed_as_ever(rows: dict[str, dict[str, str]]) -> None:
    assert rows["nni.speedup"]["status"] == rows["nni.l1norm"]["status"] == "working"
    assert rows["nni.l1norm"]["distribution"].startswith("detpress ")
    assert len(rows) == len(CARELESS) + len(FINE) + sum(
        row["distribution"].startswith("detpress ") for row in rows.values()
    )


def test_what_is_fine_but_could_be_better_is_remarked(rows: dict[str, dict[str, str]]) -> None:
    assert (rows["my.silent"]["status"], rows["my.silent"]["remark"]) == (
        "working",
        "has no docstring, which would be its card",
    )
    assert re.fullmatch(
        r"takes 1\.\d s to import: import torch and engines inside its methods", rows["my.slow"]["remark"]
    )


def test_a_name_that_two_packages_bring_is_told_apart_by_the_package(
    machine: Machine, rows: dict[str, dict[str, str]]
) -> None:
    assert rows["clash:nni.l1norm"]["remark"] == "'nni.l1norm' is also brought by detpress"
    assert rows["one:both.round"]["remark"] == "'both.round' is also brought by two"
    assert "both.round" not in rows
    recipe = machine.folder / "both.yaml"
    recipe.write_text(
        "name: both\ndata: {root: 'builtin:digits'}\nmodel: {weights: 'builtin:digits'}\n"
        "chain: [both.round, two:both.round, clash:nni.l1norm, one:no.such]\n"
    )
    said = machine.detpress("validate", "both.yaml", "--no-data")
    assert said.returncode == 2
    assert said.stderr.splitlines() == [
        "detpress: both.yaml:4: chain[0]: plugin 'both.round' is brought by one and two; "
        "expected one:both.round or two:both.round",
        "both.yaml:4: chain[3]: unknown plugin 'one:no.such'; nothing that is installed brings 'one:no.*': "
        "is the package that does installed here?",
    ]


@pytest.mark.parametrize("package", ["crashes", "exits"])
def test_a_recipe_with_a_broken_plugin_is_one_line(package: str, machine: Machine) -> None:
    (machine.folder / "one.yaml").write_text(
        "name: one\ndata: {root: 'builtin:digits'}\nmodel: {weights: 'builtin:digits'}\n"
        f"chain: [{{my.{package}: {{}}}}]\n"
    )
    said = machine.detpress("validate", "one.yaml", "--no-data")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert said.stderr.startswith(f"detpress: one.yaml:4: chain[0]: plugin 'my.{package}' ({package} 1.2) cannot be ")


def test_the_card_of_a_broken_plugin_is_its_row(machine: Machine) -> None:
    said = machine.detpress("plugins", "my.leaves")
    assert (said.returncode, said.stderr) == (1, "")
    assert said.stdout.startswith("my.leaves  broken")


@pytest.mark.parametrize(
    ("command", "packages"), [("tuners", ["a_tuner", "an_assessor"]), ("model", ["an_architecture"])]
)
def test_every_other_door_contains_what_comes_in(command: str, packages: list[str], machine: Machine) -> None:
    said = machine.detpress(command)
    assert (said.returncode, said.stderr) == (0, "")
    for package in packages:
        [row] = [line for line in said.stdout.splitlines() if line.startswith(f"my.{package} ")]
        assert f"{OTHER_DOORS[package][1]} 'my.{package}' ({package} 1.2) cannot be used: " in row
        assert f"to remove it: pip uninstall {package}" in row


@pytest.mark.parametrize("door", [LAYERS, ENCODINGS, OBJECTIVES], ids=lambda door: str(door.group))
def test_what_crashes_where_a_part_of_a_network_is_expected_is_a_finding(door: Door, install: Install) -> None:
    crashes = "\nimport ctypes\nctypes.string_at(0)\n"
    install("crashing", "1.2", {"crashing.py": crashes}, f"[{door.group}]\nmy.part = crashing:Part\n")
    [finding] = findings(door, ["my.part"])
    assert finding.failure.endswith(
        " 'my.part' (crashing 1.2) cannot be used: importing it ends the process with SIGSEGV, at crashing.py:3; "
        "to remove it: pip uninstall crashing"
    )


def test_an_architecture_that_two_packages_bring_is_told_apart_in_a_recipe(install: Install, tmp_path: Path) -> None:
    for package in ("one", "two"):
        install(package, "1.2", {f"{package}.py": ""}, f"[detpress.architectures]\nboth.net = {package}:Net\n")
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        "name: both\ndata: {root: 'builtin:digits'}\nmodel: {arch: both.net, image_size: 64}\nchain: []\n"
    )
    expected = (
        "both.yaml:3: model.arch: architecture 'both.net' is brought by one and two; expected one:both.net or two:"
    )
    with pytest.raises(InputError, match=re.escape(expected)):
        read_recipe(recipe)
    assert read_recipe(recipe, ["model.arch=two:both.net"]).model.arch == "two:both.net"


def test_a_recipe_without_others_plugins_imports_none_of_them(machine: Machine) -> None:
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from detpress.encodings.bundle import load_bundle, save_bundle
        from detpress.builtin import find_bundle
        from detpress.recipe.file import find_recipe, read_recipe
        read_recipe(find_recipe("quickstart"))
        save_bundle(load_bundle(find_bundle("builtin:digits")), Path("digits"))
        print({path.stem for path in Path("site").glob("*.py")} & sys.modules.keys())
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=machine.environment,
        cwd=machine.folder,
    )
    assert done.stdout == "set()\n"


def test_a_row_is_kept_until_its_distribution_changes(tmp_path: Path) -> None:
    counted = "from pathlib import Path\nwith Path('imports').open('a') as file:\n    file.write('x')\n"
    source, entries = f"{counted}{PLUGIN}Careless = Good\n", "[detpress.plugins]\nmy.kept = kept:Careless\n"
    site = write_distribution(tmp_path / "site", "kept", "1.2", {"kept.py": source}, entries)
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    machine = Machine(os.environ | {"PYTHONPATH": path, "DETPRESS_CACHE": str(tmp_path / "cache")}, tmp_path)
    for _ in range(2):
        assert machine.rows()["my.kept"]["status"] == "working"
    assert (tmp_path / "imports").read_text() == "x", "the second time it is known"
    (site / "kept.py").write_text(f"{source}raise OSError\n")
    assert machine.rows()["my.kept"]["status"] == "broken"
