"""An engine in an environment of its own: installed once, called from a stage, its version in keys and results."""

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, Said
from distribution import Install
from processes import PATIENCE, begin, is_gone
from processes import detpress as detpress_program

from detpress.environments import Environment
from detpress.environments.calling import call
from detpress.errors import InputError
from detpress.recipe.file import read_recipe
from detpress.run.store import Store

PLUGINS = """
from detpress.api import Form, Options, Plugin


class One(Plugin):
    'Scales the first parameter by what its engine says.'

    class Config(Options):
        how: str = ""

    accepts = frozenset({{Form.DENSE}})
    returns = Form.DENSE
    requirements = ({one!r},)

    def apply(self, model, config, bench):
        import copy

        note = bench.scratch / "note.txt"
        factor = bench.in_environment(f"my_plugins.inside:{{config.how or 'factor'}}", note=note, beside=[1, None])
        if note.is_file():
            bench.note(note.read_text())
        network = copy.deepcopy(model.network)
        next(network.parameters()).data.mul_(factor)
        return model.with_network(network)


class Two(One):
    requirements = ({two!r},)
"""
INSIDE = """
import ctypes
import os
import subprocess
import sys
import time

import tiny


def factor(progress, note, beside):
    assert beside == [1, None]
    progress("images seen", 1, 2)
    print("printed inside")
    os.system("echo by a child process")
    try:
        import torch
    except ImportError:
        torch = None
    with open(note, "w") as file:
        file.write(f"torch {torch}, tiny {tiny.VERSION}, {sys.prefix}")
    return tiny.FACTOR


def raises(progress, **more):
    raise ValueError("no good\\n  scales")


def crashes(progress, **more):
    ctypes.string_at(0)


def gives_what_is_no_data(progress, **more):
    return object()


def hangs(progress, **more):
    sleeper = subprocess.Popen(["sleep", "600"])
    with open("pid", "w") as file:
        file.write(f"{os.getpid()} {sleeper.pid}")
    ctypes.PyDLL(None).sleep(600)  # with Python's lock held


def hangs_once(progress, **more):
    if not os.path.exists("pid"):
        hangs(progress)
    return tiny.FACTOR


def eats(progress, **more):
    return len(b"0" * 10**9)
"""
RECIPE = """\
name: small
data: {root: digits}
model: {arch: yolov3-tiny, width: 0.03125, image_size: 32}
chain: []
measure: {runtimes: [], memory: false}
"""


def wheel(folder: Path, version: str, factor: float) -> Path:
    """A package of one module, as an index would have it."""
    made = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("tiny.py", f"VERSION, FACTOR = {version!r}, {factor}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return made


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of an engine, and where their environments are kept for all tests here."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "1.0", 0.5)
    wheel(folder, "2.0", 0.25)
    (folder / "environments").mkdir()
    return folder


@pytest.fixture
def plugins(install: Install, workplace: Path, cache: Path, wheels: Path) -> list[Environment]:
    """The plugins `my.one` and `my.two` are there, and the environments that they require; not installed."""
    (cache / "environments").symlink_to(wheels / "environments")
    names = [f"tiny @ {(wheels / f'tiny-{version}-py3-none-any.whl').as_uri()}" for version in ("1.0", "2.0")]
    sources = {
        "my_plugins/__init__.py": "",
        "my_plugins/plugins.py": PLUGINS.format(one=names[0], two=names[1]),
        "my_plugins/inside.py": INSIDE,
    }
    entries = "[detpress.plugins]\nmy.one = my_plugins.plugins:One\nmy.two = my_plugins.plugins:Two\n"
    install("mine", "1.2", sources, entries)
    (workplace / "small.yaml").write_text(RECIPE)
    return [Environment((name,)) for name in names]


@pytest.fixture
def installed(plugins: list[Environment], detpress: Command) -> list[Environment]:
    said = detpress("plugins", "install", "my.one", "my.two")
    assert said.code == 0, said.err
    return plugins


def run(detpress: Command, chain: str, *more: str) -> Said:
    return detpress("run", "small.yaml", "--set", f"chain=[{chain}]", *more)


def test_what_is_not_installed_is_said_before_the_work_and_is_installed_once(
    detpress: Command, plugins: list[Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / "of its own"))
    one, two = plugins
    expected = (
        f"the environment of its engine is not installed ({one.requirements[0]}): detpress plugins install my.one"
    )
    for command in ("validate", "run"):
        said = detpress(command, "small.yaml", "--set", "chain=[my.one]")
        assert (said.code, said.out) == (2, "")
        assert said.err.endswith(f": --set chain=[my.one]: chain[0].my.one: the plugin cannot run here: {expected}\n")
    row = {row["name"]: row for row in detpress("plugins", "--json").json}["my.one"]
    assert [row[key] for key in ("status", "reason", "environment")] == ["unavailable", expected, None]

    said = detpress("plugins", "install", "my.one", "--json")
    assert said.code == 0, said.err
    assert said.json == [{"plugin": "my.one", "environment": str(one.folder), "new": True, "versions": {"tiny": "1.0"}}]
    assert detpress("plugins", "install", "my.one").out == f"my.one: tiny 1.0 ({one.folder}), which was there\n"
    assert f"its engine: tiny 1.0 ({one.folder})" in detpress("plugins", "my.one").out
    rows = {row["name"]: row for row in detpress("plugins", "--json").json}
    assert [rows[name]["status"] for name in ("my.one", "my.two")] == ["working", "unavailable"]
    assert rows["my.one"]["environment"] == str(one.folder)

    (one.folder / "made.json").unlink()
    (one.folder / "bin/python").unlink()
    assert detpress("plugins", "install", "my.one", "--json").json[0]["new"], "what was left of one is made anew"

    Path(two.requirements[0].partition("file://")[2]).rename(tmp_path / "gone")
    said = detpress("plugins", "install", "my.two")
    (tmp_path / "gone").rename(two.requirements[0].partition("file://")[2])
    assert said.code == 1
    last = said.err.splitlines()[-1]
    assert re.search(r"pip --python .* install .* failed: .*No such file or directory: '.*tiny-2\.0", last), last
    assert not two.is_made
    distutils = importlib.import_module("distutils.core")
    assert "setuptools" in str(distutils.__file__), "torch.compile needs the one of setuptools"

    said = detpress("plugins", "install", "nni.l1norm")
    assert (said.code, said.err) == (
        2,
        "detpress: nni.l1norm: no environment to install: there are no `requirements`\n",
    )


def test_two_versions_of_one_engine_are_two_keys_and_both_are_named(
    detpress: Command, installed: list[Environment], workplace: Path
) -> None:
    found: list[dict[str, Any]] = []
    for name, version in (("one", "1.0"), ("two", "2.0")):
        said = run(detpress, f"my.{name}", "--out", name, "--json")
        assert said.code == 0, said.err
        stage = said.json["stages"][1]
        prefix = installed[int(version[0]) - 1].folder
        assert stage["environment"] == {"tiny": version}
        assert stage["notes"] == [f"torch None, tiny {version}, {prefix}"]
        log = (workplace / f"{name}/1-my.{name}/stage.log").read_text()
        assert "\nprinted inside\nby a child process\n" in log
        assert "printed inside" not in said.err
        history = (workplace / f"{name}/1-my.{name}/bundle/model.json").read_text()
        assert f'"environment": {{ "tiny": "{version}" }}' in " ".join(history.split())
        found.append(stage)
    assert found[0]["key"] != found[1]["key"]
    assert run(detpress, "my.one", "--json").json["stages"][1]["reused"]

    metadata = installed[0].folder / f"lib/python3.{sys.version_info.minor}/site-packages/tiny-1.0.dist-info/METADATA"
    text = metadata.read_text()
    metadata.write_text(text.replace("Version: 1.0", "Version: 1.1"))
    again = run(detpress, "my.one", "--json").json["stages"][1]
    metadata.write_text(text)
    assert again["environment"] == {"tiny": "1.1"}
    assert again["key"] != found[0]["key"], "what is in the environment now decides"


def test_what_the_engine_tells_of_its_progress_is_handed_on(installed: list[Environment], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    arguments = {"note": tmp_path / "note.txt", "beside": [1, None]}
    found = call(
        installed[0],
        "my_plugins.inside:factor",
        arguments,
        lambda *progress: told.append(progress),
        None,
        tmp_path / "stage.log",
    )
    assert (found, told) == (0.5, [("images seen", 1, 2)])


ENDINGS = [  # the function, what stands beside the plugin, and what is said
    ("raises", "", ": in its environment: ValueError: no good scales, at inside.py:26; see "),
    ("crashes", "", ": in its environment: its process was killed by SIGSEGV"),
    (
        "gives_what_is_no_data",
        "",
        ": in its environment: TypeError: Object of type object is not JSON serializable, at inside.py",
    ),
    ("nothing", "", ": in its environment: AttributeError: module 'inside' has no attribute 'nothing', at inside.py"),
    ("hangs", ", timeout: 2", " took longer than the 2 s of its `timeout`, at my_plugins/plugins.py:19"),
    ("eats", ", memory: 0.5", " asked for more than the 0.5 GB of its `memory`; see "),
]


@pytest.mark.usefixtures("installed")
def test_however_it_ends_there_it_is_one_line(detpress: Command, workplace: Path, cache: Path) -> None:
    for how, beside, what in ENDINGS:
        said = run(detpress, f"{{my.one: {{how: {how}}}{beside}}}")
        assert (said.code, said.out) == (1, ""), how
        last = said.err.splitlines()[-1]
        assert last.startswith("detpress: my.one (mine 1.2)"), last
        assert what in last
        assert "Traceback" not in said.err
        [log] = (cache / "store/scratch").glob("*/stage.log")
        if how == "raises":
            assert "ValueError: no good\n  scales\n" in log.read_text(), "its traceback"
        if how == "hangs":
            assert all(map(is_gone, pids(workplace)))
        log.unlink()


@pytest.mark.parametrize("isolated", ["true", "false"])
@pytest.mark.usefixtures("installed")
def test_ctrl_c_ends_what_hangs_there(detpress: Command, workplace: Path, cache: Path, isolated: str) -> None:
    def press_when_it_hangs() -> None:
        while not pids(workplace):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_when_it_hangs, daemon=True).start()
    said = run(detpress, f"{{my.one: {{how: hangs}}, isolated: {isolated}}}")
    assert said.code == 2
    assert said.err.endswith("detpress: stopped; what was finished is kept, the same command goes on from there\n")
    assert all(map(is_gone, pids(workplace)))
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]


@pytest.mark.usefixtures("installed")
def test_a_run_that_is_killed_leaves_no_process_there_and_the_same_command_makes_the_stage(
    detpress: Command, workplace: Path
) -> None:
    chain = "chain=[{my.one: {how: hangs_once}}]"
    copy = begin(workplace / "killed", detpress_program, "run", "small.yaml", "--set", chain)
    copy.wait_for("pid", workplace)
    while not pids(workplace):
        time.sleep(0.02)
    copy.send(signal.SIGKILL)
    assert copy.end()[0] == -signal.SIGKILL
    deadline = time.monotonic() + PATIENCE
    while not all(map(is_gone, pids(workplace))):
        assert time.monotonic() < deadline, "the engine outlives its run"
        time.sleep(0.05)
    said = detpress("run", "small.yaml", "--set", chain, "--json")
    assert said.code == 0, said.err
    assert [stage["reused"] for stage in said.json["stages"]] == [True, False]


def pids(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(word) for word in (folder / "pid").read_text().split()]
    return []


@pytest.mark.parametrize(
    ("requirements", "what"),
    [
        ('"tiny"', "its `requirements` are no tuple of texts"),
        ('("tiny<<2",)', "its `requirements`: 'tiny<<2' is no requirement such as 'numpy<2'"),
    ],
)
def test_requirements_that_are_none_are_said(install: Install, workplace: Path, requirements: str, what: str) -> None:
    source = PLUGINS.format(one="tiny", two="tiny").replace("('tiny',)", requirements)
    install("mine", "1.2", {"one_plugin.py": source}, "[detpress.plugins]\nmy.one = one_plugin:One\n")
    with pytest.raises(InputError, match=re.escape(what)):
        read_recipe(workplace / "small.yaml", ["chain=[my.one]"])
