"""What a stage costs beside the work in it: many stages that do next to nothing, run locally and on Ray.

    python benchmarks/overhead.py local 100 1000 10000     a study run by processes of this machine, one after the other
    python benchmarks/overhead.py ray 100 1000 10000       the same on a Ray cluster that is started for it
    python benchmarks/overhead.py compare 1000             `detpress compare` of so many runs that are finished
    python benchmarks/overhead.py parts 100                where the time of a stage goes, in this process
    python benchmarks/overhead.py isolated 30              the same stages with and without a process of their own
    python benchmarks/overhead.py command 9                `detpress run` of one stage, with and without, in turn

A stage adds a number to one bias of a tiny YOLOv3 and is scored on one image: simulated work, but real keys, bundles,
measurements, store and processes. A recipe has up to 100 of them. Seconds are those of the whole study, starting what
runs it included; memory is the largest of the processes at any moment, summed over this one and those below it; bytes
are the store's. Time of a processor is that of all processes, spent in them and in the system for them: what else the
machine does is hardly in it. `parts` times what a stage computes, its plugin and its measurement, apart from all else,
in one process that has started; its figures are medians over the stages. All of these run with `isolated: false`; what
it costs to isolate is what `isolated` compares, the first stage apart, for which a Python is started, and `command`,
where the program copies itself instead. The table is Markdown.
"""

import argparse
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

Times = np.ndarray[Any, np.dtype[np.float64]]
STEPS = 100  # of a recipe, at most
PLUGIN = '''
import copy

import torch
from detpress.api import Form, Options, Plugin


class Amount(Options):
    """What is added."""

    amount: float


class Nudge(Plugin):
    """Adds a number to one bias: the least that is a change."""

    Config = Amount
    accepts = frozenset({Form.DENSE})
    returns = Form.DENSE

    def apply(self, model, config, bench):
        network = copy.deepcopy(model.network)
        bias = next(tensor for name, tensor in network.named_parameters() if name.endswith("bias"))
        with torch.no_grad():
            bias[0] += config.amount
        return model.with_network(network)
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("local", "ray", "compare", "parts", "isolated", "command"))
    parser.add_argument("sizes", type=int, nargs="+", help="stages, or finished runs")
    options = parser.parse_args()
    if options.what == "compare":
        print("| finished runs | seconds | seconds a run |\n|--:|--:|--:|")
    elif options.what == "isolated":
        print("| isolated | ms of the first stage | ms of each further one |\n|---|--:|--:|")
    elif options.what == "command":
        print("| isolated | seconds of `detpress run` |\n|---|--:|")
    elif options.what == "parts":
        print("| of a stage | ms | ms of a processor |\n|---|--:|--:|")
    else:
        print(
            "| runner | stages | seconds | ms a stage | ms of a processor a stage | peak memory, MB | store, MB "
            "| bytes a stage |"
        )
        print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, plugin_installed(Path(folder)):
        for size in options.sizes:
            of_size = Path(folder, str(size))
            of_size.mkdir()
            os.environ["DETPRESS_CACHE"] = str(of_size / "cache")
            if options.what == "compare":
                compare_finished(size, of_size)
            elif options.what == "parts":
                time_parts(size, of_size)
            elif options.what == "isolated":
                compare_isolated(size, of_size)
            elif options.what == "command":
                compare_commands(size, of_size)
            else:
                run(options.what, size, of_size)
            shutil.rmtree(of_size)


@contextmanager
def plugin_installed(folder: Path) -> Iterator[None]:
    """Makes `bench.nudge` a plugin of this process and of all that it starts."""
    site, info = folder / "site", folder / "site/overhead-1.dist-info"
    info.mkdir(parents=True)
    (site / "overhead_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: overhead\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[detpress.plugins]\nbench.nudge = overhead_plugin:Nudge\n")
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(site))
    try:
        yield
    finally:
        sys.path.remove(str(site))
        os.environ.clear()
        os.environ.update(before)


def write_study(recipes: int, steps: int, folder: Path) -> Path:
    """A study of so many recipes, no two stages of which are the same but the first."""
    from detpress.voc.digits import write_digits

    write_digits(folder / "digits", {"train": 1, "val": 1, "test": 1})
    amounts = itertools.count(1)
    chains = [[step(next(amounts), isolated=False) for _ in range(steps)] for _ in range(recipes)]
    study = {
        "name": "overhead",
        "shared": settings(folder),
        "recipes": [{"name": f"r{i}", "chain": chain} for i, chain in enumerate(chains)],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def step(number: int, isolated: bool) -> dict[str, Any]:
    return {"bench.nudge": {"amount": number * 1e-6}, "isolated": isolated}


def settings(folder: Path) -> dict[str, Any]:
    return {
        "data": {"root": str(folder / "digits")},
        "model": {"arch": "yolov3-tiny", "width": 0.03125, "image_size": 32},
        "measure": {"runtimes": [], "memory": False},
    }


def compare_isolated(stages: int, folder: Path) -> None:
    from detpress.recipe.file import read_recipe
    from detpress.run.chain import run_chain
    from detpress.run.store import open_store
    from detpress.study.events import EventListener
    from detpress.voc.digits import write_digits
    from detpress.voc.named import open_data

    write_digits(folder / "digits", {"train": 1, "val": 1, "test": 1})
    for isolated in (False, True):
        chain = [step(number, isolated) for number in range(1, stages + 1)]
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "overhead", **settings(folder), "chain": chain}))
        recipe = read_recipe(folder / "recipe.yaml")
        devkit, listener = open_data(recipe.data.root), EventListener(lambda event: None)
        took = []
        before = time.perf_counter()
        for _ in run_chain(recipe, devkit, open_store(), listener, fresh=True):
            took.append(1000 * (time.perf_counter() - before))
            before = time.perf_counter()
        print(f"| {isolated} | {took[1]:.0f} | {np.median(took[2:]):.0f} |", flush=True)


def compare_commands(times: int, folder: Path) -> None:
    from detpress.voc.digits import write_digits

    write_digits(folder / "digits", {"train": 1, "val": 1, "test": 1})
    took = {False: [0.0] * times, True: [0.0] * times}
    for number, isolated in itertools.product(range(times), took):
        path = folder / f"{number}-{isolated}.yaml"
        chain = [step(2 * number + isolated + 1, isolated)]
        path.write_text(yaml.safe_dump({"name": "overhead", **settings(folder), "chain": chain}))
        command = [sys.executable, "-m", "detpress.cli", "run", str(path), "--out", str(folder / path.stem)]
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=folder)
        took[isolated][number] = time.perf_counter() - started
    for isolated, seconds in took.items():
        print(f"| {isolated} | {np.median(seconds):.2f} |", flush=True)


def run(runner: str, stages: int, folder: Path) -> None:
    steps = min(stages, STEPS)
    study = write_study(stages // steps, steps, folder)
    command = [sys.executable, "-m", "detpress.cli", "compare", str(study), "--out", str(folder / "run"), "--quiet"]
    started, worked = time.perf_counter(), processor_seconds()
    process = subprocess.Popen(
        command + (["--ray", "auto"] if runner == "ray" else []), stdout=subprocess.DEVNULL, cwd=folder
    )
    peak = peak_memory(process)
    seconds, worked = time.perf_counter() - started, processor_seconds() - worked
    if process.returncode:
        raise SystemExit(f"{runner}, {stages} stages: detpress compare ended with {process.returncode}")
    size = sum(path.stat().st_size for path in (folder / "cache/store").rglob("*") if path.is_file())
    print(
        f"| {runner} | {stages:,} | {seconds:,.1f} | {1000 * seconds / stages:.1f} | {1000 * worked / stages:.1f} "
        f"| {peak / 1e6:,.0f} "
        f"| {size / 1e6:,.1f} | {size / stages:,.0f} |",
        flush=True,
    )


def processor_seconds() -> float:
    """What the processes that this one started, and that have ended, have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_memory(process: "subprocess.Popen[bytes]") -> int:
    """Waits for the process; the most bytes that it and those below it held, looked at every half second."""
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.5):
            held = 0
            for member in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                try:
                    held += member.memory_full_info().uss
                except psutil.NoSuchProcess:
                    continue  # it has just ended
            peak = max(peak, held)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    process.wait()
    ended.set()
    return peak


def time_parts(stages: int, folder: Path) -> None:
    from overhead_plugin import Nudge

    import detpress.run.stage
    from detpress.run.chain import run_chain
    from detpress.run.store import open_store
    from detpress.study.definition import read_study
    from detpress.study.events import EventListener
    from detpress.voc.named import open_data

    recipe = read_study(write_study(1, stages, folder)).jobs[0].recipe
    computed: list[Times] = []  # by the stage that goes on
    measure, apply = detpress.run.stage.measure_model, Nudge.apply
    detpress.run.stage.measure_model = timed(measure, computed)
    Nudge.apply = timed(apply, computed)
    whole, computing = [], []
    before = now()
    for _ in run_chain(recipe, open_data(recipe.data.root), open_store(), EventListener(lambda event: None)):
        whole.append(now() - before)
        computing.append(np.sum(computed, axis=0))
        computed.clear()
        before = now()
    detpress.run.stage.measure_model, Nudge.apply = measure, apply
    for name, times in (
        ("all", whole),
        ("computing: the plugin, and measuring", computing),
        ("beside it", np.subtract(whole, computing)),
    ):
        wall, processor = 1000 * np.median(times[1:], axis=0)  # the first is the model before any plugin
        print(f"| {name} | {wall:.1f} | {processor:.1f} |", flush=True)


def now() -> Times:
    """Seconds on the clock, and those that this process has worked: float64 (2,)."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(compute: Callable[..., Any], took: list[Times]) -> Callable[..., Any]:
    """The same function, which appends to `took` how long it took."""

    def computed(*arguments: Any) -> Any:
        before = now()
        try:
            return compute(*arguments)
        finally:
            took.append(now() - before)

    return computed


def compare_finished(runs: int, folder: Path) -> None:
    from detpress.run.chain import run_chain
    from detpress.run.store import open_store
    from detpress.study.definition import read_study
    from detpress.study.events import EventListener
    from detpress.voc.named import open_data

    path = write_study(runs, 1, folder)
    study = read_study(path)
    devkit, store = open_data(study.jobs[0].recipe.data.root), open_store()
    for job in study.jobs:
        for _ in run_chain(job.recipe, devkit, store, EventListener(lambda event: None)):
            pass
    command = [sys.executable, "-m", "detpress.cli", "compare", str(path), "--out", str(folder / "run"), "--quiet"]
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=folder)
    seconds = time.perf_counter() - started
    print(f"| {runs:,} | {seconds:.1f} | {seconds / runs:.4f} |", flush=True)


if __name__ == "__main__":
    main()
