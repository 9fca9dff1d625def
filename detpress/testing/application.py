"""The plugin applied once, in this process or in another one, and what could be seen of it from outside."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from detpress.contract.registry import environment_of
from detpress.detector.model import Model, difference
from detpress.detector.network import Network
from detpress.encodings.bundle import load_bundle, save_bundle
from detpress.engine_log import standard_output_into
from detpress.errors import StageError
from detpress.measure.section import Measure
from detpress.options import bundles_in
from detpress.recipe.file import Recipe, read_recipe
from detpress.recipe.sections import Data
from detpress.recipe.yaml_source import spell
from detpress.run.making import torch_as_it_was
from detpress.run.workbench import StageWorkbench
from detpress.training import module as training_module
from detpress.training.process import seeded
from detpress.voc.devkit import open_devkit

GRACE = 5.0  # seconds that threads have to end after `apply`
LIVES_ON = "tqdm_monitor"  # the one thread of tqdm in a process, for all of its bars
SEED = 0


@dataclass(frozen=True)
class Asked:
    """A plugin's name and its options, some of them as `--set` gives them: `step=0.1`."""

    plugin: str
    options: Mapping[str, Any] = field(default_factory=dict)
    assignments: tuple[str, ...] = ()

    def recipe(self, folder: Path) -> Recipe:
        """A chain of this step alone, for what lies in `folder` (see `detpress.testing.cases`).

        Each bundle that an option names is replaced by the teacher of the same classes. Raises InputError as
        `read_recipe` does.
        """
        contents = {
            "name": "check",
            "data": {"root": str(folder / "data")},
            "model": {"weights": str(folder / "bundle")},
            "chain": [{self.plugin: dict(self.options)}],
            "measure": {"runtimes": [], "threads": torch.get_num_threads()},
        }
        given = [f"chain[0].{assignment}" for assignment in self.assignments]
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "check.yaml"
            path.write_text(yaml.safe_dump(contents, sort_keys=False), encoding="utf-8")
            named = [option for option, _ in bundles_in(read_recipe(path, given).chain[0].config)]
            return read_recipe(path, [*given, *(f"chain[0].{spell(option)}={folder / 'teacher'}" for option in named)])


@dataclass(frozen=True)
class Application:
    """model: what came out, as it was given, and `read_back`, as the next step of a chain gets it.

    printed: what reached the standard output. left: what lies in the working folder, which was empty; "" where the
    plugin went to another one. threads: names of those that were not there before, and still are. changed: what of the
    given model is another afterwards, "" if nothing. reports: how often progress was told.
    """

    given: Model
    model: Model
    read_back: Model
    printed: str
    left: tuple[str, ...]
    threads: tuple[str, ...]
    changed: str
    reports: int


def apply(
    recipe: Recipe, folder: Path, scratch: Path, report: Callable[[int], None] = lambda count: None
) -> Application:
    """Applies the recipe's step to the model in `folder`. Raises whatever the plugin raises.

    scratch: the stage's folder, made if it is not there. report: is told how often progress was told.
    """
    [step] = recipe.chain
    given, untouched = load_bundle(folder / "bundle"), load_bundle(folder / "bundle")
    reports = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal reports
        reports += 1
        report(reports)

    scratch.mkdir(parents=True, exist_ok=True)
    bench = StageWorkbench(
        SEED,
        scratch,
        logging.getLogger("detpress.testing"),
        progress,
        open_devkit(Path(recipe.data.root), given.architecture.classes),
        Data(root=recipe.data.root),
        Measure(runtimes=[], threads=torch.get_num_threads()),
        architecture=given.architecture,
        files=scratch / "files",
        bundles=step.plugin.bundles(step.config),
        environment=environment_of(step.plugin),
    )
    before = set(threading.enumerate())
    with tempfile.TemporaryFile() as printed, _working_folder() as left:
        with torch_as_it_was(), standard_output_into(printed.fileno()), seeded(SEED):
            model = step.plugin.apply(given, step.config, bench)
        if not isinstance(model, Model) or type(model.network) is not Network:
            raise StageError("`apply` gives no Model with a Network; make it by model.with_network(network)")
        there = left()
        printed.seek(0)
        said = printed.read().decode(errors="replace")
    threads = _new_threads(before)
    return Application(given, model, _read_back(model), said, there, threads, difference(untouched, given), reports)


def maps(model: Model, images: Tensor) -> dict[str, Tensor]:
    """The raw maps, by number, coarse to fine."""
    with torch.inference_mode():
        return {str(i): raw.clone() for i, raw in enumerate(model.network.eval()(images))}


def _read_back(model: Model) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(model, Path(folder) / "bundle")
        return load_bundle(Path(folder) / "bundle")


@contextmanager
def _working_folder() -> Iterator[Callable[[], tuple[str, ...]]]:
    """An empty working folder; what is yielded lists what was left there."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        os.chdir(folder)
        try:
            yield lambda: ("",) if Path.cwd() != folder else tuple(sorted(path.name for path in folder.iterdir()))
        finally:
            os.chdir(home)


def _new_threads(before: set[threading.Thread]) -> tuple[str, ...]:
    latest = time.monotonic() + GRACE
    while (new := _thread_names(set(threading.enumerate()) - before)) and time.monotonic() < latest:
        time.sleep(0.02)
    return new


def _thread_names(threads: set[threading.Thread]) -> tuple[str, ...]:
    return tuple(sorted(thread.name for thread in threads if thread.name != LIVES_ON))


def apply_elsewhere(asked: Asked, folder: Path, scratch: Path, bundle: Path, kill_at: int | None = None) -> int:
    """The same in a process of its own, which saves the model as `bundle`; its exit code.

    kill_at: after how many reports of progress it is killed, at the latest when the plugin is done.
    """
    return _elsewhere(
        "_apply",
        {
            "asked": asdict(asked),
            "kill_at": kill_at,
            "folder": str(folder),
            "scratch": str(scratch),
            "bundle": str(bundle),
        },
    )


def _apply(asked: dict[str, Any], folder: str, scratch: str, bundle: str, kill_at: int | None) -> None:
    def killed(reports: int) -> None:
        if kill_at is not None and reports >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    training_module.CHECKPOINT_SECONDS = 0.0  # every epoch leaves one, however short it is
    whole = Asked(asked["plugin"], asked["options"], tuple(asked["assignments"]))
    done = apply(whole.recipe(Path(folder)), Path(folder), Path(scratch), killed)
    killed(sys.maxsize)
    save_bundle(done.model, Path(bundle))


def maps_elsewhere(bundle: Path, images: Tensor, folder: Path) -> dict[str, Tensor]:
    """The maps of the bundle's model in a process of its own, which knows nothing of the plugin.

    Raises StageError where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"images": images}, folder / "images.safetensors")
    if _elsewhere("_maps", {"bundle": str(bundle), "folder": str(folder)}):
        raise StageError("a process that only reads the bundle cannot compute its maps")
    return load_file(folder / "maps.safetensors")


def _maps(bundle: str, folder: str) -> None:
    images = load_file(Path(folder) / "images.safetensors")["images"]
    save_file(maps(load_bundle(Path(bundle)), images), Path(folder) / "maps.safetensors")


def _elsewhere(function: str, arguments: dict[str, Any]) -> int:
    """Exit code of another Python that calls the function of this module."""
    call = f"from detpress.testing import application; application.called({function!r}, {torch.get_num_threads()})"
    return python(call, json.dumps(arguments)).returncode


def called(function: str, threads: int) -> None:
    """What the other process does."""
    torch.set_num_threads(threads)
    globals()[function](**json.load(sys.stdin))


def python(code: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """The code run by another Python, with the same modules to import and another seed of hashes."""
    path = [str(Path(folder).absolute()) for folder in sys.path]
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}"],
        input=given,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        check=False,
    )
