"""What the runner costs: quickstart by `detpress run`, by hand, and a second time; and the start of the program.

    python benchmarks/runner.py [--epochs 6] [--rounds 2] [--json]

`by hand` is a script that makes the same calls to the engines and measures its models in the same way, with neither
recipe, plugins, store nor bundles between: what `detpress run` takes beyond it is the runner's own. Every case has a
process of its own, and `detpress run` an empty store each time; they take turns, round by round. Seconds are of the
whole process, imports included, the median of the rounds. Memory is the process's peak resident set; the one that
measures a stage's memory is another process and not in it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

BY_HAND, FIRST, SECOND, HELP = "by hand", "detpress run", "the same again", "detpress --help"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="of the fine-tuning (the recipe's own by default)")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions, of which the median is told (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--by-hand", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_hand:
        by_hand(options.epochs)
        return
    rows = measure(options)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"quickstart, median of {options.rounds}")
    print(f"{'':<18}{'seconds':>9}{'x by hand':>11}{'peak GB':>9}")
    for case, row in rows.items():
        ratio = row["seconds"] / rows[BY_HAND]["seconds"]
        print(f"{case:<18}{row['seconds']:9.2f}{ratio:11.3f}{row['peak_memory_bytes'] / 1e9:9.2f}")


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    epochs = [] if options.epochs is None else [f"--epochs={options.epochs}"]
    setting = [] if options.epochs is None else ["--set", f"chain[2].epochs={options.epochs}"]
    detpress = [sys.executable, "-m", "detpress.cli"]
    found: dict[str, list[dict[str, float]]] = {BY_HAND: [], FIRST: [], SECOND: [], HELP: []}
    with tempfile.TemporaryDirectory() as folder:
        in_process([*detpress, "data", "get", "digits", "--root", folder], folder)
        for i in range(options.rounds):
            cache = Path(folder) / f"round{i}"
            cache.mkdir()
            for data in Path(folder).glob("digits-*"):
                (cache / data.name).symlink_to(data)
            run = [*detpress, "run", "quickstart", *setting, "--out", str(cache / "run")]
            found[BY_HAND].append(in_process([sys.executable, __file__, "--by-hand", *epochs], cache))
            found[FIRST].append(in_process(run, cache))
            found[SECOND].append(in_process(run, cache))
            found[HELP].append(in_process([*detpress, "--help"], cache))
    return {case: {key: median(row[key] for row in rows) for key in rows[0]} for case, rows in found.items()}


def in_process(command: list[str], cache: str | Path) -> dict[str, float]:
    """Seconds and peak memory of a process that ends well."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | {"DETPRESS_CACHE": str(cache)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said}")
    return {"seconds": time.perf_counter() - started, "peak_memory_bytes": usage.ru_maxrss * 1024}


def by_hand(epochs: int | None) -> None:
    """Quickstart as a script."""
    import logging
    import tempfile

    import torch

    from detpress.adapters.inc import Scheme, quantize_static
    from detpress.adapters.nni_prune import choose_filters
    from detpress.adapters.nni_speedup import speed_up
    from detpress.builtin import find_bundle
    from detpress.detector.channels import masks_of_filters
    from detpress.detector.model import Model, apply_masks
    from detpress.encodings.bundle import load_bundle, save_bundle
    from detpress.measure.metrics import measure_model
    from detpress.plugins.nni_prune_options import filter_targets
    from detpress.recipe.file import find_recipe, read_recipe
    from detpress.report.pictures import draw_stage_pictures
    from detpress.run.workbench import StageWorkbench
    from detpress.training.trainer import TrainingContext, fit
    from detpress.voc.named import open_data

    recipe = read_recipe(find_recipe("quickstart"), [] if epochs is None else [f"chain[2].epochs={epochs}"])
    pruning, _, training, quantization = (step.config for step in recipe.chain)
    log = logging.getLogger("by-hand")
    log.propagate = False
    log.addHandler(logging.NullHandler())
    root = Path(tempfile.mkdtemp())
    model = load_bundle(find_bundle("builtin:digits"))
    devkit = open_data("builtin:digits", list(model.architecture.classes))

    def silent(what: str, done: int, total: int) -> None:
        """A script shows nothing."""

    named = []

    def measured(name: str, model: Model) -> Model:
        folder = root / name
        save_bundle(model, folder / "bundle")  # for its size on disk and the memory that it needs
        measure_model(model, folder / "bundle", devkit, "test", recipe.measure, folder / "results", silent)
        named.append((name, folder / "results"))
        return model

    measured("model", model)
    bench = StageWorkbench(0, root, log, silent, devkit, recipe.data, recipe.measure, architecture=model.architecture)
    targets = filter_targets(model.architecture, pruning)
    network, kept = choose_filters(model.network, model.architecture, "l1norm", targets, bench)
    masks = masks_of_filters(network, kept)
    apply_masks(network, masks)
    model = measured("masked", Model(network, masks))
    model = measured("smaller", Model(speed_up(model.network, model.architecture, model.masks, log)))
    model = measured("tuned", fit(model, training, TrainingContext(devkit, "train", 0, root, log, silent)))
    images = bench.calibration(quantization.calibration_images)
    scheme = Scheme(**quantization.model_dump(include=set(Scheme.__annotations__)))
    with torch.random.fork_rng():
        quantized = quantize_static(model.network, model.architecture, images, scheme, (), log)
    measured("int8", Model(quantized))
    draw_stage_pictures(devkit, "test", named, root / "pictures", print)


if __name__ == "__main__":
    main()
