"""Plugins of others run in a process of their own: whatever they do there, it is no more than a stage that fails."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Command, Said
from distribution import Install
from processes import is_gone

from detpress.errors import InputError, StageError
from detpress.recipe.file import read_recipe, recipe_text
from detpress.run.chain import run_chain
from detpress.run.initial_model import open_recipe_data
from detpress.run.store import Store, open_store

PLUGINS = """
import ctypes
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from detpress.api import Form, Options, Plugin


class Mine(Plugin):
    'Halves the first parameter.'

    class Config(Options):
        how: str = ""

    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def apply(self, model, config, bench):
        return halved(model)


def halved(model):
    import copy

    network = copy.deepcopy(model.network)
    next(network.parameters()).data.mul_(0.5)
    return model.with_network(network)


class Leaks(Mine):
    def apply(self, model, config, bench):
        import numpy
        import torch

        print("by print")
        print("by print, as an error", file=sys.stderr)
        os.write(1, b"by descriptor\\n")
        ctypes.CDLL(None).printf(b"by the C library\\n")
        os.system("echo by a child process")
        logging.warning("by logging")
        threading.Thread(target=time.sleep, args=(600,)).start()
        os.chdir("/")
        os.environ["LEAKED"] = "yes"
        sys.path.insert(0, "/leaked")
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for seed in (random.seed, numpy.random.seed, torch.manual_seed):
            seed(7)
        sys.stdout = None
        return halved(model)


class Sees(Mine):
    def apply(self, model, config, bench):
        import torch

        bench.note(f"sees {os.getcwd()} {os.environ.get('LEAKED')} {torch.get_default_dtype()} "
                   f"{torch.get_num_threads()} {torch.is_grad_enabled()} {threading.active_count()} "
                   f"{torch.are_deterministic_algorithms_enabled()} {'/leaked' in sys.path}")
        return halved(model)


class Ends(Mine):
    def apply(self, model, config, bench):
        bench.log.info("about to end")
        Path("pid").write_text(str(os.getpid()))
        match config.how:
            case "crashes":
                ctypes.string_at(0)
            case "leaves":
                os._exit(0)
            case "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exits":
                sys.exit(3)
            case "hangs":
                ctypes.PyDLL(None).sleep(600)  # with Python's lock held
            case "eats":
                import torch

                return [torch.ones(10**7) for _ in range(1000)]
            case "starts":
                if os.fork() == 0:
                    Path("pid").write_text(str(os.getpid()))
                    time.sleep(600)
                time.sleep(0.5)
                os._exit(1)
            case "ends its maker":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(600)
            case "hands on":
                raise AssertionError("in worker 0.\\nTraceback (most recent call last):\\n  ...\\nAssertionError")


class Detaches(Mine):
    def apply(self, model, config, bench):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                Path("pid").write_text(str(os.getpid()))
                time.sleep(600)
            os._exit(0)
        os.wait()
        while not Path("pid").exists() or not Path("pid").read_text():
            time.sleep(0.02)
        return halved(model)


class Doubles(Mine):
    def apply(self, model, config, bench):
        if os.fork() == 0:
            time.sleep(config.how == "late")
        else:
            time.sleep(config.how == "early")
        return halved(model)


class Trains(Mine):
    def apply(self, model, config, bench):
        import numpy
        import torch

        from detpress.api import TrainingConfig

        bench.progress("numbers counted", numpy.int64(1), numpy.int64(2))
        drawn = torch.rand(1) * random.random()
        once = TrainingConfig(epochs=1, batch_size=4)

        def train():
            bench.log.info("trains")
            return bench.fit(model, once)

        second = bench.fit(bench.remember_model({"what": "first"}, train), once)
        if Path("to-be-killed").exists():
            Path("to-be-killed").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        next(second.network.parameters()).data.add_(drawn)
        bench.figure("figure", 3.5)
        return second
"""
RECIPE = """\
name: small
data: {root: digits}
model: {arch: yolov3-tiny, width: 0.03125, image_size: 32}
chain: []
measure: {runtimes: [], memory: false}
"""


@pytest.fixture
def careless(install: Install, workplace: Path) -> Path:
    """The working folder, with a recipe; the plugins are installed."""
    kinds = re.findall(r"^class (\w+)", PLUGINS, re.MULTILINE)
    entries = "".join(f"my.{kind.lower()} = careless:{kind}\n" for kind in kinds)
    install("careless", "1.2", {"careless.py": PLUGINS}, f"[detpress.plugins]\n{entries}")
    (workplace / "small.yaml").write_text(RECIPE)
    return workplace


def run(detpress: Command, chain: str, *more: str) -> Said:
    return detpress("run", "small.yaml", "--set", f"chain=[{chain}]", *more)


def settings() -> list[Any]:
    """What a plugin can set for its whole process."""
    generators = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    numbers = [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()]
    process = [Path.cwd(), os.environ.get("LEAKED"), threading.active_count(), signal.getsignal(signal.SIGINT)]
    return [*generators, *numbers, torch.are_deterministic_algorithms_enabled(), *process]


def test_nothing_that_a_plugin_sets_or_prints_reaches_beyond_its_stage(detpress: Command, careless: Path) -> None:
    before = settings()
    said = run(detpress, "my.leaks, my.sees", "--out", "out", "--json")
    assert said.code == 0, said.err
    assert settings() == before
    stages = said.json["stages"]
    assert [stage["distribution"] for stage in stages] == [None, "careless 1.2", "careless 1.2"]
    assert said.json["versions"]["careless"] == "1.2"
    threads = torch.get_num_threads()
    assert stages[2]["notes"] == [f"sees {careless} None torch.float32 {threads} True 1 False False"]
    log = (careless / "out/1-my.leaks/stage.log").read_text()
    ways = ("print", "print, as an error", "descriptor", "the C library", "a child process", "logging")
    for way in ways:
        assert f"by {way}\n" in log
        assert f"by {way}\n" not in said.err


ENDINGS = [  # how, what stands beside the plugin, and what is said
    ("crashes", "", "its process was killed by SIGSEGV, at careless.py:78; its log ends with: "),
    ("leaves", "", "its process ended with exit status 0, at careless.py:80; its log ends with: "),
    (
        "is killed",
        "",
        "its process was killed by SIGKILL, as the system does when memory runs out; its log ends with: ",
    ),
    ("exits", "", "failed: it asked the program to exit (3); see "),
    ("hangs", ", timeout: 3", "took longer than the 3 s of its `timeout`, at careless.py:86; its log ends with: "),
    ("eats", ", memory: 0.5", "asked for more than the 0.5 GB of its `memory`; see "),
    ("starts", "", "its process ended with exit status 1, at careless.py:96; its log ends with: "),
    ("hands on", "", "failed: AssertionError: AssertionError, at careless.py:101; see "),
    ("ends its maker", "", ": the process that makes stages was ended meanwhile, by the step or from outside; "),
]


def test_however_it_ends_it_is_one_line_and_what_was_finished_is_kept(
    detpress: Command, careless: Path, cache: Path
) -> None:
    for how, beside, what in ENDINGS:
        said = run(detpress, f"my.mine, {{my.ends: {{how: {how}}}{beside}}}")
        assert (said.code, said.out) == (1, ""), how
        last = said.err.splitlines()[-1]
        assert last.startswith("detpress: my.ends (careless 1.2)")
        assert what in last
        assert ("INFO about to end" in last) == ("its log ends with" in what)
        assert "Traceback" not in said.err
        assert sorted(entry.plugin for entry in Store(cache / "store").listing()) == ["model", "my.mine"]
        assert (careless / "runs/small/1-my.mine/bundle").is_dir()
        assert is_gone(int((careless / "pid").read_text())), how


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that has left its group is on its own")
def test_a_process_that_a_stage_has_let_go_of_ends_with_the_stage(detpress: Command, careless: Path) -> None:
    assert run(detpress, "my.detaches").code == 0
    assert is_gone(int((careless / "pid").read_text()))


@pytest.mark.parametrize("how", ["early", "late", "at once"])
def test_a_copy_of_its_process_that_returns_too_is_no_second_result(
    how: str, detpress: Command, careless: Path
) -> None:
    said = run(detpress, f"{{my.doubles: {{how: {how}}}}}", "--json")
    assert said.code == 0, said.err
    assert [stage["plugin"] for stage in said.json["stages"]] == ["model", "my.doubles"]


def test_ctrl_c_ends_what_hangs_in_c(detpress: Command, careless: Path, cache: Path) -> None:
    def press_when_it_hangs() -> None:
        while not (careless / "pid").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_when_it_hangs, daemon=True).start()
    said = run(detpress, "{my.ends: {how: hangs}}")
    assert said.code == 2
    assert said.err.endswith("detpress: stopped; what was finished is kept, the same command goes on from there\n")
    assert is_gone(int((careless / "pid").read_text()))
    assert [entry.plugin for entry in Store(cache / "store").listing()] == ["model"]
    assert run(detpress, "my.mine").code == 0, "another process is begun"


def test_what_is_being_made_ends_with_a_run_that_is_killed(careless: Path) -> None:
    command = [sys.executable, "-m", "detpress", "run", "small.yaml", "--set", "chain=[{my.ends: {how: hangs}}]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not (careless / "pid").exists() or not (careless / "pid").read_text():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        made_by = int((careless / "pid").read_text())
        assert b"nursery" not in Path(f"/proc/{made_by}/cmdline").read_bytes(), "copied: nothing was imported again"
        process.kill()
        assert is_gone(made_by)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, index: int, total: int, name: str) -> None: ...

    def waiting(self) -> None: ...

    def end(self, stage: object) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None:
        self.told.append(f"{what} {done} of {total}")


def test_isolated_or_not_killed_or_not_the_weights_are_the_same_bit_for_bit(
    careless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(step: str, cache: str) -> tuple[str, list[str]]:
        """The bundle's digests, and the progress that was told."""
        monkeypatch.setenv("DETPRESS_CACHE", str(tmp_path / cache))
        recipe = read_recipe(Path("small.yaml"), [f"chain=[{step}]"])
        heard = Heard()
        stages = list(run_chain(recipe, open_recipe_data(recipe), open_store(), heard))
        assert stages[1].metrics["plugin"] == {"figure": 3.5}
        assert (stages[1].folder / "stage.log").read_text().count("INFO trains") == 1, "what it remembers is kept"
        return (stages[1].bundle / "SHA256SUMS").read_text(), heard.told

    (careless / "to-be-killed").touch()
    with pytest.raises(StageError, match="killed by SIGKILL"):
        made("my.trains", "apart")
    apart, told = made("my.trains", "apart")
    here, told_here = made("{my.trains: {}, isolated: false}", "here")
    assert apart == here
    assert {what for what in told if what.startswith("epoch")} <= {*told_here}
    assert any(what.startswith("epoch") for what in told)


@pytest.mark.parametrize(
    ("chain", "what"),
    [
        ("{my.mine: {}, timeout: 0}", "chain[0].timeout: expected"),
        ("{my.mine: {}, memory: 1GB}", "chain[0].memory: expected a number of GB, got '1GB'"),
        ("{my.mine: {}, isolated: false, timeout: 5}", "chain[0]: expected no `timeout` and no `memory`"),
        ("{my.mine: {}, timeot: 5}", "beside it only isolated, timeout, memory; got my.mine, timeot"),
    ],
)
def test_a_step_says_beside_its_plugin_how_it_runs(careless: Path, chain: str, what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)):
        read_recipe(Path("small.yaml"), [f"chain=[{chain}]"])


@pytest.mark.usefixtures("careless")
def test_how_a_step_runs_is_kept_wherever_the_recipe_goes(tmp_path: Path) -> None:
    step = "{my.mine: {how: well}, memory: 2.5}"
    recipe = read_recipe(Path("small.yaml"), [f"chain=[{step}]", "chain[0].timeout=60", "chain[0].how=better"])
    expected = {"my.mine": {"how": "better"}, "timeout": 60.0, "memory": 2.5}
    assert recipe.as_dict()["chain"] == [expected]
    (tmp_path / "copied.yaml").write_text(recipe_text(recipe, "copied"))
    assert read_recipe(tmp_path / "copied.yaml").chain[0].running == recipe.chain[0].running
